"""`SeparateHead` and `DCNSeparateHead`: the maps of one task of a centre head.

Shapes: B batch, C channels, H and W size of the map.
Source: CenterPoint (Yin et al. 2021), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_conv_layer
from raydet3d.models.layers.conv_module import ConvModule
from raydet3d.models.module import BaseModule, ConfigType, InitCfg
from raydet3d.registry import MODELS

Heads = Mapping[str, Sequence[int]]
"""For each map its channels and the number of convolutions."""

_CONV = {"type": "Conv2d"}
_NORM = {"type": "BN2d"}


@MODELS.register_module()
class SeparateHead(BaseModule):
    """A few convolutions for each map.

    Args:
        in_channels: Channels of the shared map.
        heads: See `Heads`; `heatmap` is the one of the class scores.
        head_conv: Channels between the convolutions.
        final_kernel: Kernel size of all convolutions.
        init_bias: Bias of the heat map.
        conv_cfg: Convolution layer.
        norm_cfg: Normalization between the convolutions.
        bias: "auto" for a bias where there is no normalization.
        init_cfg: Only None is supported: Kaiming normal for the convolutions.
        num_cls: Not used; `CenterHead` passes the number of classes to every kind of head.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Heads,
        head_conv: int = 64,
        final_kernel: int = 1,
        init_bias: float = -2.19,
        conv_cfg: ConfigType = _CONV,
        norm_cfg: ConfigType = _NORM,
        bias: bool | str = "auto",
        init_cfg: InitCfg = None,
        num_cls: int | None = None,
    ) -> None:
        _refuse_init_cfg(self, init_cfg)
        super().__init__({"type": "Kaiming", "layer": "Conv2d"})
        self.heads = heads
        self.init_bias = init_bias
        padding = final_kernel // 2
        for name, (channels, num_conv) in heads.items():
            layers: list[nn.Module] = []
            before = in_channels
            for _ in range(num_conv - 1):
                layers.append(
                    ConvModule(
                        before,
                        head_conv,
                        kernel_size=final_kernel,
                        padding=padding,
                        bias=bias,
                        conv_cfg=conv_cfg,
                        norm_cfg=norm_cfg,
                    )
                )
                before = head_conv
            layers.append(
                build_conv_layer(conv_cfg, before, channels, kernel_size=final_kernel, padding=padding, bias=True)
            )
            self.add_module(name, nn.Sequential(*layers))

    @override
    def init_weights(self) -> None:
        super().init_weights()
        if "heatmap" in self.heads:
            _fill_bias(cast(nn.Sequential, self.heatmap)[-1], self.init_bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute every map of the task from the shared map (B, C, H, W)."""
        return {name: getattr(self, name)(x) for name in self.heads}


@MODELS.register_module()
class DCNSeparateHead(BaseModule):
    """A `SeparateHead` on features that deformable convolutions adapt, one for the heat map and one for the rest.

    Args:
        in_channels: Channels of the shared map.
        num_cls: Number of classes of the task.
        heads: See `Heads`; `heatmap` is not used.
        dcn_config: Deformable convolution.
        head_conv: Channels between the convolutions.
        final_kernel: Kernel size of the convolutions of the regression maps.
        init_bias: Bias of the heat map.
        conv_cfg: Convolution layer.
        norm_cfg: Normalization between the convolutions.
        bias: "auto" for a bias where there is no normalization.
        init_cfg: Only None is supported: Kaiming normal for the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        num_cls: int,
        heads: Heads,
        dcn_config: ConfigType,
        head_conv: int = 64,
        final_kernel: int = 1,
        init_bias: float = -2.19,
        conv_cfg: ConfigType = _CONV,
        norm_cfg: ConfigType = _NORM,
        bias: bool | str = "auto",
        init_cfg: InitCfg = None,
    ) -> None:
        _refuse_init_cfg(self, init_cfg)
        super().__init__({"type": "Kaiming", "layer": "Conv2d"})
        self.feature_adapt_cls = build_conv_layer(dcn_config)
        self.feature_adapt_reg = build_conv_layer(dcn_config)
        self.cls_head = nn.Sequential(
            ConvModule(
                in_channels, head_conv, kernel_size=3, padding=1, conv_cfg=conv_cfg, bias=bias, norm_cfg=norm_cfg
            ),
            build_conv_layer(conv_cfg, head_conv, num_cls, kernel_size=3, padding=1, bias=True),
        )
        self.init_bias = init_bias
        self.task_head = SeparateHead(
            in_channels,
            {name: sizes for name, sizes in heads.items() if name != "heatmap"},
            head_conv=head_conv,
            final_kernel=final_kernel,
            bias=bias,
        )

    @override
    def init_weights(self) -> None:
        super().init_weights()
        _fill_bias(self.cls_head[-1], self.init_bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute every map of the task from the shared map (B, C, H, W)."""
        scores = self.cls_head(self.feature_adapt_cls(x))
        maps: dict[str, Tensor] = self.task_head(self.feature_adapt_reg(x))
        return {**maps, "heatmap": scores}


def _refuse_init_cfg(head: nn.Module, init_cfg: InitCfg) -> None:
    if init_cfg is not None:
        raise InputError(f"{type(head).__name__}: init_cfg is not supported; the bias of the heat map needs init_bias")


def _fill_bias(conv: nn.Module, value: float) -> None:
    assert isinstance(conv.bias, Tensor)
    nn.init.constant_(conv.bias, value)
