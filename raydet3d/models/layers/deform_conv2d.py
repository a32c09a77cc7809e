"""Deformable convolution layers by mmcv's names.

Shapes: B batch, C channels, H and W size of the map, K positions of the kernel, G offset groups.
Source: Dai et al., "Deformable convolutional networks", ICCV 2017; Zhu et al., "Deformable ConvNets v2", CVPR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.ops.deform_conv import Pair, deform_conv2d
from raydet3d.registry import MODELS


class DeformConv2d(nn.Module):
    """Deformable convolution whose offsets are given.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Kernel size, one number or (y, x), like the next three.
        stride: Stride.
        padding: Padding.
        dilation: Dilation.
        groups: Groups of the convolution.
        deform_groups: G.
        bias: Only False is supported.
    """

    offsets_per_position = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if bias and not self._allows_bias():
            raise InputError(f"{name}: bias=True is not supported; leave it out")
        if in_channels % groups or out_channels % groups or in_channels % deform_groups:
            raise InputError(
                f"{name}: in_channels={in_channels} must be divisible by groups={groups} and by "
                f"deform_groups={deform_groups}, and out_channels={out_channels} by groups"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deform_groups = deform_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.reset_parameters()

    def _allows_bias(self) -> bool:
        return False

    def reset_parameters(self) -> None:
        """Initialize uniformly within 1 / sqrt(in_channels * K)."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(
            x,
            offset,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            mask=mask,
        )

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve (B, C_in, H, W) with offsets (B, G * K * 2, Ho, Wo)."""
        return self._convolve(x, offset)

    def _offset_conv(self) -> nn.Conv2d:
        """Return the convolution that computes offsets (and masks); zero, so that training begins undeformed."""
        channels = self.deform_groups * self.offsets_per_position * math.prod(self.kernel_size)
        conv = nn.Conv2d(
            self.in_channels, channels, self.kernel_size, stride=self.stride, padding=self.padding,
            dilation=self.dilation,
        )  # fmt: skip
        nn.init.zeros_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        return conv

    @override
    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, groups={self.groups}, deform_groups={self.deform_groups}"
        )


@MODELS.register_module("DCN")
class DeformConv2dPack(DeformConv2d):
    """Deformable convolution with a convolution for its offsets; arguments are those of `DeformConv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups, bias)
        self.conv_offset = self._offset_conv()

    @override
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self._convolve(x, self.conv_offset(x))


@MODELS.register_module("DCNv2")
class ModulatedDeformConv2dPack(DeformConv2dPack):
    """Deformable convolution with a factor for every sample (version 2); `bias` is supported and the default."""

    offsets_per_position = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups, bias)

    @override
    def _allows_bias(self) -> bool:
        return True

    @override
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        return self._convolve(x, torch.cat((first, second), dim=1), mask.sigmoid())


def _pair(value: int | Sequence[int]) -> Pair:
    """Expand one number to two."""
    y, x = (value,) * 2 if isinstance(value, int) else value
    return y, x
