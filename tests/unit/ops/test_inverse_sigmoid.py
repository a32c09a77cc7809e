"""The inverse of the sigmoid."""

from __future__ import annotations

import torch

from raydet3d.ops.inverse_sigmoid import inverse_sigmoid


def test_it_inverts_and_is_bounded() -> None:
    x = torch.linspace(-5, 5, 11)
    assert torch.allclose(inverse_sigmoid(x.sigmoid()), x, atol=1e-4)
    assert torch.isfinite(inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0]))).all()
