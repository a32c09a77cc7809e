"""The bird's-eye-view network: SECOND's strided stages and the neck that brings them to one resolution.

Legend: B batch · C channels · H, W bird's-eye grid. Maps that arrive channels-last stay so: on a CPU that makes the
convolutions 1.5 to 3 times faster, and the weights, and so the checkpoints, do not know of it.
Source: SECOND (Yan et al. 2018); PointPillars (Lang et al. 2019), section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models.layers.dense import build_conv, build_norm, build_upsample, init_kaiming
from raydet3d.registry import MODELS

_NORM = {"type": "BN", "eps": 1e-3, "momentum": 0.01}


@MODELS.register_module()
class SECOND(nn.Module):
    """Stages of 3x3 convolutions; each begins with a strided one, and each one's output is handed on.

    Args:
        in_channels: Channels of the bird's-eye map.
        out_channels: Channels of each stage.
        layer_nums: Convolutions of each stage after its strided one.
        layer_strides: Stride of each stage's first convolution.
        norm_cfg: Normalisation after every convolution.
        conv_cfg: Kind of convolution.
    """

    def __init__(
        self,
        in_channels: int = 128,
        out_channels: Sequence[int] = (128, 128, 256),
        layer_nums: Sequence[int] = (3, 5, 5),
        layer_strides: Sequence[int] = (2, 2, 2),
        norm_cfg: Mapping[str, Any] = _NORM,
        conv_cfg: Mapping[str, Any] = {"type": "Conv2d", "bias": False},
    ) -> None:
        super().__init__()
        _same_length("SECOND", out_channels=out_channels, layer_nums=layer_nums, layer_strides=layer_strides)
        blocks = []
        before = in_channels
        for channels, layers, stride in zip(out_channels, layer_nums, layer_strides, strict=True):
            block: list[nn.Module] = []
            for index in range(layers + 1):
                step = stride if index == 0 else 1
                block += [
                    build_conv(conv_cfg, before, channels, kernel_size=3, stride=step, padding=1),
                    build_norm(norm_cfg, channels),
                    nn.ReLU(inplace=True),
                ]
                before = channels
            blocks.append(nn.Sequential(*block))
        self.blocks = nn.ModuleList(blocks)

    def init_weights(self) -> None:
        """Give the convolutions their published first values."""
        init_kaiming(self, nn.Conv2d)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the stages.

        Args:
            x: (B, C, H, W).

        Returns:
            One map per stage, each (B, C_stage, H_stage, W_stage).
        """
        outs = []
        for block in self.blocks:
            x = block(x)
            outs.append(x)
        return tuple(outs)


@MODELS.register_module()
class SECONDFPN(nn.Module):
    """Brings each stage's map to one resolution and joins them along the channels.

    Args:
        in_channels: Channels of each stage.
        out_channels: Channels that each stage is brought to.
        upsample_strides: By how much each stage is enlarged; below one, it is reduced by a strided convolution.
        norm_cfg: Normalisation after each.
        upsample_cfg: Kind of upsampling.
        conv_cfg: Kind of convolution, where one is used.
        use_conv_for_no_stride: Use a 1x1 convolution, not a transposed one, where the stride is one.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (128, 128, 256),
        out_channels: Sequence[int] = (256, 256, 256),
        upsample_strides: Sequence[float] = (1, 2, 4),
        norm_cfg: Mapping[str, Any] = _NORM,
        upsample_cfg: Mapping[str, Any] = {"type": "deconv", "bias": False},
        conv_cfg: Mapping[str, Any] = {"type": "Conv2d", "bias": False},
        use_conv_for_no_stride: bool = False,
    ) -> None:
        super().__init__()
        _same_length("SECONDFPN", in_channels=in_channels, out_channels=out_channels, upsample_strides=upsample_strides)
        deblocks = []
        for before, after, stride in zip(in_channels, out_channels, upsample_strides, strict=True):
            if stride > 1 or (stride == 1 and not use_conv_for_no_stride):
                size = int(stride)
                layer = build_upsample(upsample_cfg, before, after, kernel_size=size, stride=size)
            else:
                size = round(1 / stride)
                layer = build_conv(conv_cfg, before, after, kernel_size=size, stride=size)
            deblocks.append(nn.Sequential(layer, build_norm(norm_cfg, after), nn.ReLU(inplace=True)))
        self.deblocks = nn.ModuleList(deblocks)

    def init_weights(self) -> None:
        """Give the transposed convolutions their published first values; plain ones keep torch's own."""
        init_kaiming(self, nn.ConvTranspose2d)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Join the stages.

        Args:
            maps: One (B, C_stage, H_stage, W_stage) per stage.

        Returns:
            A list of one map (B, sum of out_channels, H, W).
        """
        ups = [deblock(x) for deblock, x in zip(self.deblocks, maps, strict=True)]
        return [torch.cat(ups, dim=1) if len(ups) > 1 else ups[0]]


def _same_length(name: str, **lists: Sequence[Any]) -> None:
    if len({len(values) for values in lists.values()}) != 1:
        said = ", ".join(f"{key} has {len(values)}" for key, values in lists.items())
        raise InputError(f"{name}: these lists have one entry per stage, but {said}")
