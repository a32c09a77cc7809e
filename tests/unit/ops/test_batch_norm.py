"""Batch normalization of channels-last maps against float64."""

import pytest
import torch
from torch import nn

from raydet3d.ops import batch_norm_channels_last, moments_channels_last


def feature_map(*shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator) + 3 * torch.randn(shape[1], 1, 1, generator=generator)
    return x.relu().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 16, 248, 216), (1, 3, 5, 1), (2, 4, 1, 7)])
def test_moments_are_those_of_float64(shape):
    x = feature_map(*shape)
    var, mean = torch.var_mean(x.double(), dim=(0, 2, 3), unbiased=False)
    ours = moments_channels_last(x)
    torch.testing.assert_close(ours[0], mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours[1], var, rtol=1e-6, atol=1e-7)


def test_values_and_gradients_are_those_of_float64():
    x = feature_map(2, 8, 60, 50).requires_grad_()
    norm = nn.BatchNorm2d(8).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    weight, bias = (p.detach().float().requires_grad_() for p in (norm.weight, norm.bias))
    out, _, _ = batch_norm_channels_last(x, weight, bias, norm.eps)
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(out) + 0.1
    double = x.detach().double().requires_grad_()
    expected = norm(double)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(out, [x, weight, bias], grad)
    theirs = torch.autograd.grad(expected, [double, norm.weight, norm.bias], grad.double())
    for one, other in zip(ours, theirs, strict=True):
        assert (one.double() - other).norm() < 1e-5 * other.norm()
