"""Casts between floating-point types."""

import torch

from raydet3d.ops import cast_to_autocast, upcast_half


def test_cast_to_autocast_follows_the_context():
    x = torch.zeros(2)
    assert cast_to_autocast(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert cast_to_autocast(x).dtype == torch.bfloat16


def test_upcast_half_leaves_double_precision():
    assert upcast_half(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert upcast_half(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
