"""Deformable convolution against a loop over positions, and against plain convolution where nothing is shifted."""

import math

import pytest
import torch
import torch.nn.functional as F

from raydet3d.ops import deform_conv2d


def sample(plane, y, x):
    """The bilinear value of a (H, W) plane, zero outside."""
    height, width = plane.shape
    low_y, low_x = math.floor(y), math.floor(x)
    value = 0.0
    for row, weight_y in ((low_y, 1 - (y - low_y)), (low_y + 1, y - low_y)):
        for column, weight_x in ((low_x, 1 - (x - low_x)), (low_x + 1, x - low_x)):
            if 0 <= row < height and 0 <= column < width:
                value += float(plane[row, column]) * weight_y * weight_x
    return value


def by_loop(x, offset, weight, stride, padding, dilation, groups, mask):
    batch, channels, _, _ = x.shape
    out_channels, per_group, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    positions = kernel_h * kernel_w
    offset_groups = offset.shape[1] // (2 * positions)
    out = torch.zeros(batch, out_channels, out_h, out_w, dtype=x.dtype)
    for b in range(batch):
        for o in range(out_channels):
            group = o // (out_channels // groups)
            for i in range(out_h):
                for j in range(out_w):
                    for c in range(per_group):
                        channel = group * per_group + c
                        shifts = channel // (channels // offset_groups)
                        for k in range(positions):
                            at = shifts * positions + k
                            y = i * stride - padding + (k // kernel_w) * dilation + float(offset[b, 2 * at, i, j])
                            z = j * stride - padding + (k % kernel_w) * dilation + float(offset[b, 2 * at + 1, i, j])
                            value = sample(x[b, channel], y, z) * float(weight[o, c, k // kernel_w, k % kernel_w])
                            out[b, o, i, j] += value * (float(mask[b, at, i, j]) if mask is not None else 1)
    return out


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "offset_groups", "masked"),
    [(1, 1, 1, 1, 1, False), (2, 1, 1, 2, 1, False), (1, 2, 2, 1, 2, True)],
)
def test_equals_a_loop_over_positions(stride, padding, dilation, groups, offset_groups, masked):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    weight = torch.randn(4, 4 // groups, 3, 3, dtype=torch.float64)
    out_h, out_w = ((size + 2 * padding - 2 * dilation - 1) // stride + 1 for size in (5, 6))
    offset = 1.5 * torch.randn(2, offset_groups * 18, out_h, out_w, dtype=torch.float64)
    mask = torch.rand(2, offset_groups * 9, out_h, out_w, dtype=torch.float64) if masked else None
    out = deform_conv2d(
        x, offset, weight, stride=(stride, stride), padding=(padding, padding), dilation=(dilation, dilation),
        groups=groups, mask=mask,
    )  # fmt: skip
    torch.testing.assert_close(out, by_loop(x, offset, weight, stride, padding, dilation, groups, mask))


def test_without_shifts_it_is_a_convolution():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 9, 7), torch.randn(8, 2, 3, 3)
    out = deform_conv2d(x, torch.zeros(2, 18, 9, 7), weight, padding=(1, 1), groups=4)
    torch.testing.assert_close(out, F.conv2d(x, weight, padding=1, groups=4), rtol=1e-4, atol=1e-4)


def test_gradients():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    offset = (torch.rand(1, 18, 4, 4, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, c: deform_conv2d(a, b, c, padding=(1, 1)), (x, offset, weight))
