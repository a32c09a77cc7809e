"""`SECONDFPN`: brings the maps of several strides to one resolution and concatenates them.

Shapes: B batch, C channels, H and W size of the map.
Source: SECOND (Yan et al. 2018); PointPillars (Lang et al. 2019), section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raydet3d.config import ConfigValue
from raydet3d.models.layers.build_layer import (
    build_conv_layer,
    build_norm_layer,
    build_upsample_layer,
    check_same_length,
)
from raydet3d.models.module import BaseModule, InitCfg
from raydet3d.registry import MODELS


@MODELS.register_module()
class SECONDFPN(BaseModule):
    """Upsamples each stage's map and concatenates them along the channels.

    Args:
        in_channels: Channels of each stage.
        out_channels: Channels after upsampling, of each stage.
        upsample_strides: Upsampling factor of each stage; below 1, a strided convolution reduces the map.
        norm_cfg: Normalization after each.
        upsample_cfg: Upsampling layer.
        conv_cfg: Convolution layer, where one is used.
        use_conv_for_no_stride: Use a convolution instead of a transposed one for a factor of 1.
        init_cfg: Weight initialization; Kaiming normal for the transposed convolutions by default.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (128, 128, 256),
        out_channels: Sequence[int] = (256, 256, 256),
        upsample_strides: Sequence[float] = (1, 2, 4),
        norm_cfg: Mapping[str, ConfigValue] = {"type": "BN", "eps": 1e-3, "momentum": 0.01},
        upsample_cfg: Mapping[str, ConfigValue] = {"type": "deconv", "bias": False},
        conv_cfg: Mapping[str, ConfigValue] = {"type": "Conv2d", "bias": False},
        use_conv_for_no_stride: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg or {"type": "Kaiming", "layer": "ConvTranspose2d"})
        check_same_length(
            "SECONDFPN", in_channels=in_channels, out_channels=out_channels, upsample_strides=upsample_strides
        )
        deblocks = []
        for before, after, stride in zip(in_channels, out_channels, upsample_strides, strict=True):
            if stride > 1 or (stride == 1 and not use_conv_for_no_stride):
                size = int(stride)
                layer = build_upsample_layer(upsample_cfg, before, after, kernel_size=size, stride=size)
            else:
                size = round(1 / stride)
                layer = build_conv_layer(conv_cfg, before, after, kernel_size=size, stride=size)
            deblocks.append(nn.Sequential(layer, build_norm_layer(norm_cfg, after)[1], nn.ReLU(inplace=True)))
        self.deblocks = nn.ModuleList(deblocks)

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Upsample and concatenate.

        Args:
            x: One (B, C_stage, H_stage, W_stage) map per stage.

        Returns:
            A list of one map (B, sum of out_channels, H, W).
        """
        ups = [deblock(one) for deblock, one in zip(self.deblocks, x, strict=True)]
        return [torch.cat(ups, dim=1) if len(ups) > 1 else ups[0]]
