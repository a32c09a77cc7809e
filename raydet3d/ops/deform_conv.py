"""Deformable convolution (versions 1 and 2) in plain torch.

Shapes: B batch, C channels, H and W size of the input, Ho and Wo of the output, kh x kw kernel of K positions, G groups
of channels with offsets of their own.
Source: Dai et al., "Deformable convolutional networks", ICCV 2017; Zhu et al., "Deformable ConvNets v2", CVPR 2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve a map that is sampled bilinearly at shifted positions; it is zero outside.

    Args:
        x: (B, C_in, H, W).
        offset: (B, G * K * 2, Ho, Wo) shifts in cells, y before x, kernel positions row by row.
        weight: (C_out, C_in / groups, kh, kw).
        bias: (C_out,).
        stride: Along y and x, like the next two.
        padding: Padding on both sides.
        dilation: Spacing of the kernel.
        groups: Groups of the convolution.
        mask: (B, G * K, Ho, Wo) factors on the samples (version 2).

    Returns:
        (B, C_out, Ho, Wo).
    """
    batch, channels, height, width = x.shape
    out_channels, _, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    positions = kernel_h * kernel_w
    offset_groups = offset.shape[1] // (2 * positions)
    # (B * G, K, Ho, Wo) sampled positions in cells.
    shift = offset.view(batch * offset_groups, positions, 2, out_h, out_w)
    index = torch.arange(positions, device=x.device)
    kernel_y = (index // kernel_w) * dilation[0] - padding[0]
    kernel_x = (index % kernel_w) * dilation[1] - padding[1]
    cell_y = torch.arange(out_h, device=x.device) * stride[0]
    cell_x = torch.arange(out_w, device=x.device) * stride[1]
    y = shift[:, :, 0] + (kernel_y[:, None] + cell_y)[:, :, None]
    x_position = shift[:, :, 1] + (kernel_x[:, None] + cell_x)[:, None]
    # `grid_sample` counts from -1 at the left border of the first cell to 1 at the right border of the last.
    grid = torch.stack(((2 * x_position + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    sampled = F.grid_sample(
        x.reshape(batch * offset_groups, channels // offset_groups, height, width),
        grid.view(batch * offset_groups, positions * out_h, out_w, 2).to(x.dtype),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    columns = sampled.view(batch, offset_groups, channels // offset_groups, positions, out_h, out_w)
    if mask is not None:
        columns = columns * mask.view(batch, offset_groups, 1, positions, out_h, out_w)
    columns = columns.reshape(batch, groups, channels // groups * positions, out_h * out_w)
    kernel = weight.reshape(groups, out_channels // groups, channels // groups * positions)
    out = (kernel.to(columns.dtype) @ columns).view(batch, out_channels, out_h, out_w)
    return out if bias is None else out + bias.to(out.dtype).view(1, -1, 1, 1)
