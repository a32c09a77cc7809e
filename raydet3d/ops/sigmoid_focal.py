"""Sigmoid focal loss: element by element, and as a sum over a large map in which few logits are positive.

Source: RetinaNet (Lin et al. 2017), equation 5.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def clip_sigmoid(x: Tensor, eps: float = 1e-4) -> Tensor:
    """Return the sigmoid, at least `eps` and at most 1 - `eps`."""
    return x.sigmoid().clamp(min=eps, max=1 - eps)


def sigmoid_focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Compute the sigmoid focal loss of each logit.

    Args:
        logits: Any shape.
        target: 0 or 1, of the same shape and type.
        gamma: Focusing parameter.
        alpha: Weight of positives; negatives have 1 - alpha.

    Returns:
        Losses of the same shape.
    """
    # The loss of a positive at x is that of a negative at -x, weights aside.
    signed = torch.where(target > 0, -logits, logits)
    loss = torch.sigmoid(signed) ** gamma * F.softplus(signed)
    return loss * (target * alpha + (1 - target) * (1 - alpha))


def sigmoid_focal_sum(
    logits: Tensor, positive: Tensor, ignored: Tensor, *, gamma: float = 2.0, alpha: float = 0.25
) -> Tensor:
    """Sum the sigmoid focal loss over logits that are negative unless listed.

    Equals the sum of `sigmoid_focal_loss` without one-hot targets, weights or further copies of the map.

    Args:
        logits: (M,) float32 or float64.
        positive: Indices of the logits whose target is 1, without repetition.
        ignored: Indices of the logits that are left out; none of them positive.
        gamma: Focusing parameter.
        alpha: Weight of positives; negatives have 1 - alpha.

    Returns:
        A scalar.
    """
    total: Tensor = _SigmoidFocalSum.apply(logits, positive, ignored, gamma, alpha)
    return total


class _SigmoidFocalSum(torch.autograd.Function):
    """Autograd function of `sigmoid_focal_sum`; the forward pass computes the gradient as well."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positive: Tensor, ignored: Tensor, gamma: float, alpha: float) -> Tensor:
        # With p = sigmoid(x) and s = -log(1 - p) = softplus(x), a negative costs (1 - alpha) p^gamma s, and
        # d/dx (p^gamma s) = p^gamma (gamma (1 - p) s + p). The map is large: as few passes over it as possible.
        p = torch.sigmoid(logits)
        s = F.softplus(logits)
        grad = torch.addcmul(s, s, p, value=-1)  # (1 - p) s
        grad = torch.add(p, grad, alpha=gamma, out=grad)
        power = p.square_() if gamma == 2 else p.pow_(gamma)
        grad.mul_(power)
        x = logits[positive]
        s.index_fill_(0, torch.cat((positive, ignored)), 0)
        # `sum` adds up pairwise; `dot` would be off by 2e-5 (relative) over a large map.
        negatives = s.mul_(power).sum() * (1 - alpha)
        # A positive costs alpha (1 - p)^gamma softplus(-x): the same function of -x.
        q = torch.sigmoid(-x)
        t = F.softplus(-x)
        power = q**gamma
        grad.index_fill_(0, ignored, 0)
        grad[positive] = power * (gamma * (1 - q) * t + q) * (-alpha / (1 - alpha))
        ctx.save_for_backward(grad)
        ctx.factor = 1 - alpha
        return negatives + alpha * (power * t).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * (grad_output * ctx.factor), None, None, None, None
