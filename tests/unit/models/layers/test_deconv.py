"""`Deconv` against torch's transposed convolution."""

import pytest
import torch
from torch import nn

from raydet3d.models.layers.deconv import Deconv


def channels_last(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_deconv_equals_conv_transpose(size):
    torch.manual_seed(0)
    layer = Deconv(3, 5, size, stride=size, bias=False).double()
    x = channels_last(2, 3, 4, 6)
    grad = torch.randn(2, 5, 4 * size, 6 * size, dtype=torch.float64)
    out = layer(x)
    wanted = nn.functional.conv_transpose2d(x, layer.weight, stride=size)
    torch.testing.assert_close(out, wanted)
    assert out.is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(
        torch.autograd.grad(out, [x, layer.weight], grad),
        torch.autograd.grad(wanted, [x, layer.weight], grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_other_strides_biases_and_memory_formats():
    x = channels_last(1, 3, 4, 4, dtype=torch.float32)
    assert Deconv(3, 2, 1, stride=2)(x).shape == (1, 2, 7, 7)
    biased = Deconv(3, 2, 1)
    torch.testing.assert_close(biased(x), nn.functional.conv_transpose2d(x, biased.weight, biased.bias))
    plain = Deconv(3, 2, 1, bias=False)
    torch.testing.assert_close(plain(x.contiguous()), plain(x))


def test_weight_gradient_has_the_strides_of_the_weight():
    """DistributedDataParallel warns, and copies, where they differ."""
    layer = Deconv(3, 5, 1, bias=False)
    layer(channels_last(2, 3, 4, 6, dtype=torch.float32)).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()
