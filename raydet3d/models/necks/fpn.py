"""`FPN`: feature pyramid. Source: Lin et al., "Feature pyramid networks for object detection", CVPR 2017.

Shapes: B batch, C channels, H and W size of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models.layers.conv_module import ConvModule
from raydet3d.models.module import BaseModule, ConfigType, InitCfg
from raydet3d.registry import MODELS

_NEAREST = {"mode": "nearest"}
_XAVIER = {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}


@MODELS.register_module()
class FPN(BaseModule):
    """Adds to each map the coarser ones, and brings all to the same channels.

    Args:
        in_channels: Channels of each map of the backbone.
        out_channels: Channels of each output.
        num_outs: Number of outputs; maps beyond those of the backbone are made by pooling or convolution.
        start_level: First map of the backbone that is used.
        end_level: Last map that is used; -1 for the last one.
        add_extra_convs: Make further maps by strided convolutions: "on_input", "on_lateral" or "on_output"; True means
            "on_input", False means pooling.
        relu_before_extra_convs: Apply ReLU before them.
        no_norm_on_lateral: Leave out the normalization of the 1x1 convolutions.
        conv_cfg: Convolution layer.
        norm_cfg: Normalization.
        act_cfg: Activation.
        upsample_cfg: Arguments of `torch.nn.functional.interpolate`.
        init_cfg: Weight initialization; Xavier uniform for the convolutions by default.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: ConfigType | None = None,
        norm_cfg: ConfigType | None = None,
        act_cfg: ConfigType | None = None,
        upsample_cfg: ConfigType = _NEAREST,
        init_cfg: InitCfg = _XAVIER,
    ) -> None:
        super().__init__(init_cfg)
        extra_kinds = ("on_input", "on_lateral", "on_output")
        if isinstance(add_extra_convs, str) and add_extra_convs not in extra_kinds:
            raise InputError(f"FPN: add_extra_convs is True, False or one of {extra_kinds}, got {add_extra_convs!r}")
        end = len(in_channels) if end_level in (-1, len(in_channels) - 1) else end_level + 1
        levels = end - start_level
        if not 0 <= start_level < end <= len(in_channels) or num_outs < levels:
            raise InputError(
                f"FPN: num_outs={num_outs} is less than the {levels} maps from start_level={start_level} to "
                f"end_level={end_level} of {len(in_channels)}, or these are no levels"
            )
        self.in_channels, self.out_channels, self.num_outs = list(in_channels), out_channels, num_outs
        self.start_level, self.end_level = start_level, end_level
        self.backbone_end_level = end
        self.add_extra_convs = "on_input" if add_extra_convs is True else add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.upsample_cfg = dict(upsample_cfg)

        def conv(channels: int, kernel_size: int, norm: ConfigType | None, stride: int = 1) -> ConvModule:
            return ConvModule(
                channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                conv_cfg=conv_cfg,
                norm_cfg=norm,
                act_cfg=act_cfg,
                inplace=False,
            )

        self.lateral_convs = nn.ModuleList(
            conv(channels, 1, None if no_norm_on_lateral else norm_cfg) for channels in in_channels[start_level:end]
        )
        self.fpn_convs = nn.ModuleList(conv(out_channels, 3, norm_cfg) for _ in range(levels))
        if self.add_extra_convs:
            for index in range(num_outs - levels):
                first = index == 0 and self.add_extra_convs == "on_input"
                channels = in_channels[end - 1] if first else out_channels
                self.fpn_convs.append(conv(channels, 3, norm_cfg, stride=2))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            inputs: One (B, C_level, H_level, W_level) map per level of the backbone.

        Returns:
            `num_outs` maps (B, out_channels, H, W), the finest first.
        """
        if len(inputs) != len(self.in_channels):
            raise InputError(f"FPN: in_channels has {len(self.in_channels)} levels, but {len(inputs)} maps were given")
        laterals = [conv(inputs[self.start_level + i]) for i, conv in enumerate(self.lateral_convs)]
        for i in range(len(laterals) - 1, 0, -1):
            sized = {} if "scale_factor" in self.upsample_cfg else {"size": laterals[i - 1].shape[2:]}
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], **sized, **self.upsample_cfg)
        outs = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=False)]
        source = {"on_input": inputs[self.backbone_end_level - 1], "on_lateral": laterals[-1]}.get(
            str(self.add_extra_convs), outs[-1]
        )
        for index in range(self.num_outs - len(outs)):
            if not self.add_extra_convs:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
                continue
            x = source if index == 0 else outs[-1]
            if index > 0 and self.relu_before_extra_convs:
                x = F.relu(x)
            outs.append(self.fpn_convs[len(laterals) + index](x))
        return tuple(outs)
