"""Losses of the detection heads, always computed in float32 or better.

A head that has many anchors and few objects hands the focal loss one flat tensor of logits and the places that are not
background, so that no one-hot targets, weights or permuted copies of the large map are ever made.

Legend: N predictions · C classes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

EPS = torch.finfo(torch.float32).eps
"""What is added to a count that a loss is divided by."""


class _FocalSum(torch.autograd.Function):
    """Sum of sigmoid focal losses over logits that are background unless said otherwise; gradient by formula."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positive: Tensor, ignored: Tensor, gamma: float, alpha: float) -> Tensor:
        # With p = sigmoid(x) and s = -log(1 - p) = softplus(x), background costs (1 - alpha) p^gamma s, and
        # d/dx (p^gamma s) = p^gamma (gamma (1 - p) s + p). The map is large: as few passes over it as can be.
        p = torch.sigmoid(logits)
        s = F.softplus(logits)
        grad = torch.addcmul(s, s, p, value=-1)  # (1 - p) s
        grad = torch.add(p, grad, alpha=gamma, out=grad)
        power = p.square_() if gamma == 2 else p.pow_(gamma)
        grad.mul_(power)
        x = logits[positive]
        s.index_fill_(0, torch.cat((positive, ignored)), 0)
        background = torch.dot(s, power) * (1 - alpha)
        # Positives cost alpha (1 - p)^gamma softplus(-x), the same function of -x.
        q = torch.sigmoid(-x)
        t = F.softplus(-x)
        power = q**gamma
        grad.index_fill_(0, ignored, 0)
        grad[positive] = power * (gamma * (1 - q) * t + q) * (-alpha / (1 - alpha))
        ctx.save_for_backward(grad)
        ctx.factor = 1 - alpha
        return background + alpha * (power * t).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * (grad_output * ctx.factor), None, None, None, None


def focal_sum(logits: Tensor, positive: Tensor, ignored: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Sum of sigmoid focal losses, all logits being background but for a few.

    Args:
        logits: (M,) flat, float32 or float64.
        positive: Indices of the logits whose target is one; no index twice.
        ignored: Indices of the logits that do not count; none of them positive.
        gamma: Exponent that quietens easy examples.
        alpha: Weight of positives; background has 1 - alpha.

    Returns:
        A single number.
    """
    total: Tensor = _FocalSum.apply(logits, positive, ignored, gamma, alpha)
    return total


class _Loss(nn.Module):
    """What losses share: the way that elements become one number."""

    REDUCTIONS: ClassVar[tuple[str, ...]] = ("none", "mean", "sum")

    def __init__(self, reduction: str, loss_weight: float) -> None:
        super().__init__()
        if reduction not in self.REDUCTIONS:
            raise InputError(f"{type(self).__name__}: reduction is one of {self.REDUCTIONS}, got {reduction!r}")
        self.reduction = reduction
        self.loss_weight = loss_weight

    def _reduce(self, loss: Tensor, weight: Tensor | None, avg_factor: float | Tensor | None) -> Tensor:
        if weight is not None:
            if weight.ndim == loss.ndim - 1:
                weight = weight[..., None]
            loss = loss * weight
        if self.reduction == "none":
            return self.loss_weight * loss
        if self.reduction == "sum":
            return self.loss_weight * loss.sum()
        if avg_factor is None:
            return self.loss_weight * loss.mean()
        return self.loss_weight * loss.sum() / (avg_factor + EPS)


@MODELS.register_module()
class FocalLoss(_Loss):
    """Sigmoid focal loss. Source: RetinaNet (Lin et al. 2017), equation 5.

    Args:
        use_sigmoid: Only the sigmoid form exists.
        gamma: Exponent that quietens easy examples.
        alpha: Weight of positives; background has 1 - alpha.
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
            raise InputError("FocalLoss: use_sigmoid=False does not exist; only sigmoid focal loss does")
        if not 0 <= alpha < 1:
            raise InputError(f"FocalLoss: alpha is at least 0 and less than 1, got {alpha}")
        self.gamma = gamma
        self.alpha = alpha

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | Tensor | None = None
    ) -> Tensor:
        """Compare logits with class indices.

        Args:
            pred: (N, C) logits.
            target: (N,) classes; C is background.
            weight: (N,) or (N, C) factors.
            avg_factor: What to divide the sum by, instead of the number of elements.
        """
        pred = at_least_float(pred)
        one_hot = F.one_hot(target, pred.shape[1] + 1)[:, :-1].to(pred)
        signed = torch.where(one_hot > 0, -pred, pred)  # the loss is the same function, of -x where the target is one
        loss = torch.sigmoid(signed) ** self.gamma * F.softplus(signed)
        loss = loss * (one_hot * self.alpha + (1 - one_hot) * (1 - self.alpha))
        return self._reduce(loss, weight, avg_factor)

    def sparse(self, logits: Tensor, positive: Tensor, ignored: Tensor, avg_factor: float | Tensor) -> Tensor:
        """Give the same for a large map of background with a few objects, in less time and memory.

        Args:
            logits: (M,) flat.
            positive: Indices of the logits whose target is one; no index twice.
            ignored: Indices of the logits that do not count.
            avg_factor: What to divide the sum by.
        """
        total = focal_sum(at_least_float(logits), positive, ignored, gamma=self.gamma, alpha=self.alpha)
        return self.loss_weight * total / (avg_factor + EPS)


@MODELS.register_module()
class SmoothL1Loss(_Loss):
    """Quadratic below `beta`, linear above.

    Args:
        beta: Where the one becomes the other.
        reduction: "mean", "sum" or "none".
        loss_weight: Factor on the result.
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.beta = beta

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | Tensor | None = None
    ) -> Tensor:
        """Compare (N, ...) numbers with their targets; the arguments are `FocalLoss`'s."""
        loss = F.smooth_l1_loss(at_least_float(pred), at_least_float(target), reduction="none", beta=self.beta)
        return self._reduce(loss, weight, avg_factor)


@MODELS.register_module()
class L1Loss(_Loss):
    """Absolute difference.

    Args:
        reduction: "mean", "sum" or "none".
        loss_weight: Factor on the result.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | Tensor | None = None
    ) -> Tensor:
        """Compare (N, ...) numbers with their targets; the arguments are `FocalLoss`'s."""
        return self._reduce((at_least_float(pred) - at_least_float(target)).abs(), weight, avg_factor)


@MODELS.register_module()
class CrossEntropyLoss(_Loss):
    """Softmax cross entropy with class indices, or sigmoid cross entropy with the same.

    Args:
        use_sigmoid: One independent yes or no per class, instead of one class of all.
        reduction: "mean", "sum" or "none".
        class_weight: Factor per class.
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

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, avg_factor: float | Tensor | None = None
    ) -> Tensor:
        """Compare (N, C) logits with (N,) classes; a class C (background) is allowed with sigmoids."""
        pred = at_least_float(pred)
        per_class = pred.new_tensor(self.class_weight) if self.class_weight is not None else None
        if self.use_sigmoid:
            one_hot = F.one_hot(target, pred.shape[1] + 1)[:, :-1].to(pred)
            loss = F.binary_cross_entropy_with_logits(pred, one_hot, pos_weight=per_class, reduction="none")
        else:
            loss = F.cross_entropy(pred, target, weight=per_class, reduction="none")
        return self._reduce(loss, weight, avg_factor)


def at_least_float(values: Tensor) -> Tensor:
    """Cast half precision to float32; float64 stays as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
