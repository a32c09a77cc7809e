"""`Scale`: a learned factor."""

from __future__ import annotations

import torch

from raydet3d.models.layers.scale import Scale


def test_the_factor_is_learned() -> None:
    scale = Scale(2.0)
    out = scale(torch.tensor([1.0, 3.0]))
    assert out.tolist() == [2, 6]
    out.sum().backward()
    assert scale.scale.grad == 4
