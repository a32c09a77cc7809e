"""`CrossEntropyLoss`: softmax or sigmoid cross entropy of class logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from raydet3d.models.losses.base import AvgFactor, WeightedLoss
from raydet3d.ops import upcast_half
from raydet3d.registry import MODELS


@MODELS.register_module()
class CrossEntropyLoss(WeightedLoss):
    """Cross entropy with class indices.

    Args:
        use_sigmoid: Sigmoid cross entropy of each class on its own instead of softmax over the classes.
        reduction: "mean", "sum" or "none".
        class_weight: Factor of each class.
        loss_weight: Factor on the result.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        reduction: str = "mean",
        class_weight: list[float] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(reduction, loss_weight)
        self.use_sigmoid = use_sigmoid
        self.class_weight = class_weight

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
            target: (N,) classes; with `use_sigmoid`, C is background.
            weight: (N,) factors, with `use_sigmoid` also (N, C).
            avg_factor: See `WeightedLoss.reduce`.
            reduction_override: See `WeightedLoss.reduce`.
        """
        pred = upcast_half(pred)
        per_class = pred.new_tensor(self.class_weight) if self.class_weight is not None else None
        if self.use_sigmoid:
            one_hot = F.one_hot(target, pred.shape[1] + 1)[:, :-1].to(pred)
            loss = F.binary_cross_entropy_with_logits(pred, one_hot, pos_weight=per_class, reduction="none")
        else:
            loss = F.cross_entropy(pred, target, weight=per_class, reduction="none")
        return self.reduce(loss, weight, avg_factor, reduction_override)
