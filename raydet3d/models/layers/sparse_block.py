"""Blocks of sparse convolutions: convolution with normalization and activation, and a residual block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from raydet3d.config import ConfigValue
from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_conv_layer, build_norm_layer
from raydet3d.models.layers.sparse_conv3d import SparseConvTensor, SparseSequential, apply_to_features
from raydet3d.models.module import BaseModule, ConfigType, InitCfg


class SparseBasicBlock(BaseModule):
    """Residual block of two submanifold convolutions.

    Args:
        inplanes: Channels of the input.
        planes: Channels of the output, equal to `inplanes`.
        stride: Only 1 is supported.
        conv_cfg: Convolution layer.
        norm_cfg: Normalization.
        init_cfg: Weight initialization.
    """

    is_sparse = True

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        conv_cfg: Mapping[str, ConfigValue] = {"type": "SubMConv3d"},
        norm_cfg: Mapping[str, ConfigValue] = {"type": "BN1d"},
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg)
        if stride != 1 or inplanes != planes:
            raise InputError("SparseBasicBlock: stride must be 1, and planes equal to inplanes")
        self.conv1 = build_conv_layer(conv_cfg, inplanes, planes, kernel_size=3, padding=1, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, planes)[1]
        self.conv2 = build_conv_layer(conv_cfg, planes, planes, kernel_size=3, padding=1, bias=False)
        self.bn2 = build_norm_layer(norm_cfg, planes)[1]
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """Compute relu(x + bn2(conv2(relu(bn1(conv1(x)))))) on the features."""
        out = self.conv1(x)
        out = out.replace_feature(self.relu(apply_to_features(self.bn1, out.features)))
        out = self.conv2(out)
        features = apply_to_features(self.bn2, out.features) + x.features
        result: SparseConvTensor = out.replace_feature(self.relu(features))
        return result


def make_sparse_convmodule(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    indice_key: str | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    conv_type: str = "SubMConv3d",
    norm_cfg: ConfigType | None = None,
    order: Sequence[str] = ("conv", "norm", "act"),
) -> SparseSequential:
    """Build a sparse convolution with normalization and activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Kernel size.
        indice_key: See the convolution layers.
        stride: Stride.
        padding: Padding.
        conv_type: "SubMConv3d", "SparseConv3d" or "SparseInverseConv3d".
        norm_cfg: Normalization.
        order: Order of "conv", "norm" and "act".
    """
    if not set(order) <= {"conv", "norm", "act"}:
        raise InputError(f"order is made of 'conv', 'norm' and 'act', got {tuple(order)}")
    layers: list[nn.Module] = []
    for part in order:
        if part == "conv":
            settings: dict[str, Any] = {"kernel_size": kernel_size, "bias": False, "indice_key": indice_key}
            if conv_type != "SparseInverseConv3d":
                settings |= {"stride": stride, "padding": padding}
            layers.append(build_conv_layer({"type": conv_type}, in_channels, out_channels, **settings))
        elif part == "norm":
            layers.append(build_norm_layer(norm_cfg or {"type": "BN1d"}, out_channels)[1])
        else:
            layers.append(nn.ReLU(inplace=True))
    return SparseSequential(*layers)
