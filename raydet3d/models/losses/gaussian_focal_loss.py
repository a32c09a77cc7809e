"""`GaussianFocalLoss`: focal loss of heat maps. Source: CornerNet (Law & Deng 2018), equation 1."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from raydet3d.models.losses.base import AvgFactor, WeightedLoss
from raydet3d.ops import upcast_half
from raydet3d.registry import MODELS

_EPS = 1e-12


@MODELS.register_module()
class GaussianFocalLoss(WeightedLoss):
    """Focal loss whose negatives count less the nearer they are to an object's centre.

    Args:
        alpha: Focusing parameter.
        gamma: Exponent of one minus the target, the weight of negatives.
        reduction: "mean", "sum" or "none".
        loss_weight: Factor on the result.
        pos_weight: Factor on the loss of centres.
        neg_weight: Factor on the loss of all other cells.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        gamma: float = 4.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        self.alpha = alpha
        self.gamma = gamma
        self.pos_weight = pos_weight
        self.neg_weight = neg_weight

    @override
    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: AvgFactor = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compare probabilities with heat maps.

        Args:
            pred: (...) probabilities in (0, 1).
            target: (...) heat maps; 1 at the centres of objects.
            weight: (...) factors.
            avg_factor: See `WeightedLoss.reduce`.
            reduction_override: See `WeightedLoss.reduce`.
        """
        pred, target = upcast_half(pred), upcast_half(target)
        positive = -(pred + _EPS).log() * (1 - pred).pow(self.alpha) * target.eq(1)
        negative = -(1 - pred + _EPS).log() * pred.pow(self.alpha) * (1 - target).pow(self.gamma)
        loss = self.pos_weight * positive + self.neg_weight * negative
        return self.reduce(loss, weight, avg_factor, reduction_override)
