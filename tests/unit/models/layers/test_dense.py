"""Layers from dicts; products of rows against the convolutions they stand for."""

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models.layers.dense import (
    Deconv,
    as_autocast,
    build_conv,
    build_norm,
    build_upsample,
    pointwise,
    pointwise_and_pick,
    rows_of,
)


def channels_last(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()


def test_norm_from_a_dict():
    norm = build_norm({"type": "BN", "eps": 1e-3, "momentum": 0.01, "requires_grad": False}, 8)
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.eps, norm.momentum, norm.num_features) == (1e-3, 0.01, 8)
    assert not any(p.requires_grad for p in norm.parameters())
    with pytest.raises(InputError, match="did you mean 'BN1d'"):
        build_norm({"type": "BN1"}, 8)


def test_conv_and_upsample_from_dicts():
    conv = build_conv({"type": "Conv2d", "bias": False}, 2, 3, kernel_size=3, padding=1)
    assert conv.bias is None
    assert conv.weight.shape == (3, 2, 3, 3)
    assert build_conv(None, 2, 3, kernel_size=1).weight.shape == (3, 2, 1, 1)
    assert build_upsample({"type": "deconv", "bias": False}, 2, 3, kernel_size=4, stride=4).weight.shape == (2, 3, 4, 4)
    with pytest.raises(InputError, match="upsample_cfg"):
        build_upsample({"type": "bilinear"}, 2, 3)


def test_pointwise_is_the_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 1).double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(pointwise(rows_of(x), conv), rows_of(conv(x)))


def test_pick_gives_the_same_values_and_gradients():
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 1).double()
    index = torch.tensor([4, 0, 4, 23])  # one cell twice
    grads = []
    for fast in (True, False):
        torch.manual_seed(1)
        rows = torch.randn(24, 5, dtype=torch.float64, requires_grad=True)
        out, picked = pointwise_and_pick(rows, conv, index) if fast else (pointwise(rows, conv), rows[index])
        loss = (out * torch.randn_like(out)).sum() + (picked * torch.randn_like(picked)).sum()
        grads.append(torch.autograd.grad(loss, [rows, conv.weight, conv.bias]))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_pick_under_autocast():
    conv = nn.Conv2d(5, 7, 1)
    rows = torch.randn(24, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, picked = pointwise_and_pick(rows, conv, torch.tensor([3]))
        loss = out.float().sum() + picked.float().sum()
    loss.backward()
    assert out.dtype == torch.bfloat16
    assert {g.dtype for g in (rows.grad, conv.weight.grad, conv.bias.grad)} == {torch.float32}
    torch.testing.assert_close(conv.bias.grad, torch.full((7,), 24.0))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_deconv_is_the_transposed_convolution(size):
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


def test_deconv_falls_back():
    """Other strides, a bias, or another storage order: the general form."""
    x = channels_last(1, 3, 4, 4, dtype=torch.float32)
    assert Deconv(3, 2, 1, stride=2)(x).shape == (1, 2, 7, 7)
    biased = Deconv(3, 2, 1)
    torch.testing.assert_close(biased(x), nn.functional.conv_transpose2d(x, biased.weight, biased.bias))
    plain = Deconv(3, 2, 1, bias=False)
    torch.testing.assert_close(plain(x.contiguous()), plain(x))


def test_gradients_lie_as_their_weights_do():
    """Distributed training warns, and copies, where they do not."""
    layer, conv = Deconv(3, 5, 1, bias=False), nn.Conv2d(5, 2, 1)
    rows, _ = pointwise_and_pick(
        rows_of(layer(channels_last(2, 3, 4, 6, dtype=torch.float32))), conv, torch.tensor([1])
    )
    rows.sum().backward()
    for weight in (layer.weight, conv.weight):
        assert weight.grad.stride() == weight.stride()


def test_as_autocast():
    x = torch.zeros(2)
    assert as_autocast(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert as_autocast(x).dtype == torch.bfloat16
