"""Inverse of the sigmoid, bounded at both ends."""

from __future__ import annotations

from torch import Tensor


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return log(x / (1 - x)) of values that are clipped to [0, 1].

    Args:
        x: Probabilities.
        eps: Least numerator and denominator.
    """
    x = x.clamp(min=0, max=1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()
