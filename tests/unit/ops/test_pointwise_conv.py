"""1x1 convolutions over rows against `nn.Conv2d`."""

import torch
from torch import nn

from raydet3d.ops import map_to_rows, pointwise_conv, pointwise_conv_and_gather


def test_pointwise_conv_equals_conv2d():
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 1).double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(pointwise_conv(map_to_rows(x), conv.weight, conv.bias), map_to_rows(conv(x)))


def test_gather_gives_the_values_and_gradients_of_two_operations():
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 1).double()
    index = torch.tensor([4, 0, 4, 23])  # one row twice
    grads = []
    for fused in (True, False):
        torch.manual_seed(1)
        rows = torch.randn(24, 5, dtype=torch.float64, requires_grad=True)
        if fused:
            out, gathered = pointwise_conv_and_gather(rows, conv.weight, conv.bias, index)
        else:
            out, gathered = pointwise_conv(rows, conv.weight, conv.bias), rows[index]
        loss = (out * torch.randn_like(out)).sum() + (gathered * torch.randn_like(gathered)).sum()
        grads.append(torch.autograd.grad(loss, [rows, conv.weight, conv.bias]))
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected)


def test_gather_under_autocast_gives_float32_gradients():
    conv = nn.Conv2d(5, 7, 1)
    rows = torch.randn(24, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, gathered = pointwise_conv_and_gather(rows, conv.weight, conv.bias, torch.tensor([3]))
        loss = out.float().sum() + gathered.float().sum()
    loss.backward()
    assert out.dtype == torch.bfloat16
    assert {g.dtype for g in (rows.grad, conv.weight.grad, conv.bias.grad)} == {torch.float32}
    torch.testing.assert_close(conv.bias.grad, torch.full((7,), 24.0))


def test_weight_gradient_has_the_strides_of_the_weight():
    """DistributedDataParallel warns, and copies, where they differ."""
    conv = nn.Conv2d(5, 2, 1)
    rows, _ = pointwise_conv_and_gather(torch.randn(24, 5), conv.weight, conv.bias, torch.tensor([1]))
    rows.sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()
