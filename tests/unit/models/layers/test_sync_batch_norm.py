"""`naiveSyncBN1d` and `naiveSyncBN2d`: two ranks against plain batch normalization of both halves."""

import pytest
import torch
from torch import nn

from raydet3d.dist import get_rank
from raydet3d.models.layers.build_layer import build_norm_layer
from tests.kit.spawn import run_ranks

SHAPES = {"naiveSyncBN1d": (8, 3), "naiveSyncBN2d": (4, 3, 5, 6)}


def normalize(kind):
    torch.manual_seed(0)
    x = torch.randn(2 * SHAPES[kind][0], *SHAPES[kind][1:]).chunk(2)[get_rank()].clone().requires_grad_()
    norm = build_norm_layer({"type": kind, "eps": 1e-3, "momentum": 0.01}, 3)[1]
    out = norm(x)
    (out**3).sum().backward()
    return out.detach(), x.grad, norm.weight.grad, norm.running_mean, norm.running_var


@pytest.mark.parametrize("kind", SHAPES)
def test_two_ranks_normalize_as_one(kind):
    torch.manual_seed(0)
    x = torch.randn(2 * SHAPES[kind][0], *SHAPES[kind][1:], requires_grad=True)
    plain = (nn.BatchNorm1d if x.ndim == 2 else nn.BatchNorm2d)(3, eps=1e-3, momentum=0.01)
    out = plain(x)
    (out**3).sum().backward()
    ranks = run_ranks(normalize, 2, kind)
    torch.testing.assert_close(torch.cat([rank[0] for rank in ranks]), out.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([rank[1] for rank in ranks]), x.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ranks[0][2] + ranks[1][2], plain.weight.grad, rtol=1e-4, atol=1e-3)
    for _, _, _, mean, var in ranks:
        torch.testing.assert_close(mean, plain.running_mean)
        # The biased variance, as the published checkpoints were trained.
        count = x.numel() // 3
        wanted = 0.99 + (plain.running_var - 0.99) * (count - 1) / count
        torch.testing.assert_close(var, wanted)


@pytest.mark.parametrize("kind", SHAPES)
def test_one_rank_is_plain_batch_normalization(kind):
    torch.manual_seed(0)
    x = torch.randn(SHAPES[kind])
    norm = build_norm_layer({"type": kind}, 3)[1]
    plain = (nn.BatchNorm1d if x.ndim == 2 else nn.BatchNorm2d)(3)
    torch.testing.assert_close(norm(x), plain(x))
    assert norm.state_dict().keys() == plain.state_dict().keys()
