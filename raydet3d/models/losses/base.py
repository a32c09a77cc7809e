"""Base class of the losses: weights, averaging factor and reduction of element-wise losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ClassVar

import torch
from torch import Tensor, nn

from raydet3d.errors import InputError

EPS = torch.finfo(torch.float32).eps
"""Added to the averaging factor, as in MMDetection."""

AvgFactor = float | Tensor | None


class WeightedLoss(nn.Module):
    """A loss that is weighted and reduced; computed in float32 or better, under autocast too.

    Args:
        reduction: "mean", "sum" or "none".
        loss_weight: Factor on the result.
    """

    REDUCTIONS: ClassVar[tuple[str, ...]] = ("none", "mean", "sum")

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self._check_reduction(reduction)
        self.reduction = reduction
        self.loss_weight = loss_weight

    def _check_reduction(self, reduction: str) -> None:
        if reduction not in self.REDUCTIONS:
            raise InputError(f"{type(self).__name__}: reduction is one of {self.REDUCTIONS}, got {reduction!r}")

    def reduce(
        self, loss: Tensor, weight: Tensor | None, avg_factor: AvgFactor, reduction_override: str | None = None
    ) -> Tensor:
        """Weight and reduce element-wise losses.

        Args:
            loss: (N, ...) losses.
            weight: (N,) or (N, ...) factors.
            avg_factor: Divisor of the sum for "mean"; the number of elements by default.
            reduction_override: Used instead of the module's reduction.

        Returns:
            A scalar, or a tensor of the losses' shape for "none".
        """
        reduction = self.reduction
        if reduction_override is not None:
            self._check_reduction(reduction_override)
            reduction = reduction_override
        if weight is not None:
            if weight.ndim == loss.ndim - 1:
                weight = weight[..., None]
            loss = loss * weight
        if reduction == "none":
            return self.loss_weight * loss
        if reduction == "sum":
            return self.loss_weight * loss.sum()
        if avg_factor is None:
            return self.loss_weight * loss.mean()
        return self.loss_weight * loss.sum() / (avg_factor + EPS)


def weighted_loss(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a function of element-wise losses the arguments of MMDetection's losses.

    Args:
        loss: Called with (N, ...) predictions, targets and further keyword arguments; returns losses of that shape.

    Returns:
        A function that also takes `weight`, (N,) or (N, ...) factors, `reduction` ("none", "mean" or "sum") and
        `avg_factor`, the divisor of the sum for "mean".
    """

    @wraps(loss)
    def weighted(
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: AvgFactor = None,
        **kwargs: object,
    ) -> Tensor:
        return WeightedLoss(reduction).reduce(loss(pred, target, **kwargs), weight, avg_factor)

    return weighted
