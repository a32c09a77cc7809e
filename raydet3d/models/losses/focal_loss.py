"""`FocalLoss`: sigmoid focal loss of class logits. Source: RetinaNet (Lin et al. 2017), equation 5."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.losses.base import EPS, AvgFactor, WeightedLoss
from raydet3d.ops import sigmoid_focal_loss, sigmoid_focal_sum, upcast_half
from raydet3d.registry import MODELS


@MODELS.register_module()
class FocalLoss(WeightedLoss):
    """Sigmoid focal loss.

    Args:
        use_sigmoid: Only True is supported.
        gamma: Focusing parameter.
        alpha: Weight of positives; negatives have 1 - alpha.
        reduction: "mean", "sum" or "none".
        loss_weight: Factor on the result.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        if not use_sigmoid:
            raise InputError("FocalLoss: use_sigmoid=False is not supported; leave it out")
        if not 0 <= alpha < 1:
            raise InputError(f"FocalLoss: alpha must be at least 0 and less than 1, got {alpha}")
        self.use_sigmoid = use_sigmoid
        self.gamma = gamma
        self.alpha = alpha

    @override
    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: AvgFactor = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compare logits with class indices.

        Args:
            pred: (N, C) logits.
            target: (N,) classes; C is background.
            weight: (N,) or (N, C) factors.
            avg_factor: See `WeightedLoss.reduce`.
            reduction_override: See `WeightedLoss.reduce`.
        """
        pred = upcast_half(pred)
        one_hot = F.one_hot(target, pred.shape[1] + 1)[:, :-1].to(pred)
        loss = sigmoid_focal_loss(pred, one_hot, gamma=self.gamma, alpha=self.alpha)
        return self.reduce(loss, weight, avg_factor, reduction_override)

    def sparse_forward(self, logits: Tensor, positive: Tensor, ignored: Tensor, avg_factor: float | Tensor) -> Tensor:
        """Compute `forward` with reduction "mean" for a large map with few positives, in less time and memory.

        Args:
            logits: (M,) flattened logits.
            positive: Indices of the logits whose target is 1, without repetition.
            ignored: Indices of the logits of weight 0.
            avg_factor: Divisor of the sum.
        """
        total = sigmoid_focal_sum(upcast_half(logits), positive, ignored, gamma=self.gamma, alpha=self.alpha)
        return self.loss_weight * total / (avg_factor + EPS)
