"""`SmoothL1Loss` and `L1Loss`: regression losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from raydet3d.models.losses.base import AvgFactor, WeightedLoss
from raydet3d.ops import upcast_half
from raydet3d.registry import MODELS


@MODELS.register_module()
class SmoothL1Loss(WeightedLoss):
    """Smooth L1 loss: 0.5 d^2 / beta below `beta`, d - 0.5 beta above.

    Args:
        beta: Difference at which the loss turns from quadratic to linear.
        reduction: "mean", "sum" or "none".
        loss_weight: Factor on the result.
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.beta = beta

    @override
    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: AvgFactor = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compare (N, ...) predictions with their targets.

        Args:
            pred: (N, ...) predictions.
            target: (N, ...) targets.
            weight: (N,) or (N, ...) factors.
            avg_factor: See `WeightedLoss.reduce`.
            reduction_override: See `WeightedLoss.reduce`.
        """
        loss = F.smooth_l1_loss(upcast_half(pred), upcast_half(target), reduction="none", beta=self.beta)
        return self.reduce(loss, weight, avg_factor, reduction_override)


@MODELS.register_module()
class L1Loss(WeightedLoss):
    """Absolute difference.

    Args:
        reduction: "mean", "sum" or "none".
        loss_weight: Factor on the result.
    """

    @override
    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: AvgFactor = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compare (N, ...) predictions with their targets; arguments as for `SmoothL1Loss.forward`."""
        return self.reduce((upcast_half(pred) - upcast_half(target)).abs(), weight, avg_factor, reduction_override)
