"""Linear layer, affine normalization, ReLU and maximum over the points of each pillar.

Shapes: N points, V pillars, C_in and C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pillar_max_reference(
    points: Tensor, pillar: Tensor, has_empty_slot: Tensor, weight: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Compute `pillar_max` in the order of its definition; slow, any device, differentiable in all arguments."""
    features = torch.relu(points @ weight.T * scale + shift)  # (N, C)
    empty = torch.where(has_empty_slot[:, None], torch.relu(shift), -torch.inf)  # (V, C); an empty slot holds zeros
    index = pillar[:, None].expand_as(features)
    return empty.scatter_reduce(0, index, features, "amax", include_self=True)


def pillar_max(
    points: Tensor, pillar: Tensor, has_empty_slot: Tensor, weight: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """Compute max over a pillar's slots of relu(scale * (W x) + shift), empty slots holding x = 0.

    Normalization and ReLU are monotonic in each channel, so the maximum is taken before them (the minimum, where the
    scale is negative). Points that tie share the gradient.

    Args:
        points: (N, C_in) features of the points; they get no gradient.
        pillar: (N,) pillar of each point.
        has_empty_slot: (V,) booleans.
        weight: (C, C_in) of the linear layer.
        scale: (C,) factor of the normalization.
        shift: (C,) offset of the normalization.

    Returns:
        (V, C).
    """
    floor = torch.where(has_empty_slot, 0.0, -torch.inf).to(points.dtype)
    result: Tensor = _PillarMax.apply(points, pillar, floor, weight, scale, shift)
    return result


class _PillarMax(torch.autograd.Function):
    """Autograd function of `pillar_max`.

    Written by hand because each operation passes over points x channels, which is large.
    """

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, pillar: Tensor, floor: Tensor, weight: Tensor, scale: Tensor, shift: Tensor
    ) -> Tensor:
        sign = torch.where(scale < 0, -1.0, 1.0).to(scale)
        values = points @ (weight * sign[:, None]).T  # (N, C)
        best = floor[:, None].repeat(1, len(weight))  # (V, C)
        best.scatter_reduce_(0, pillar[:, None].expand_as(values), values, "amax")
        out = torch.addcmul(shift, best, scale.abs()).relu_()
        ctx.save_for_backward(points, pillar, values, best, out, sign, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        points, pillar, values, best, out, sign, scale = ctx.saved_tensors
        # Arithmetic instead of comparisons and selections, which are several times slower on a CPU.
        grad = torch.ops.aten.threshold_backward(grad, out, 0)  # (V, C)
        ones = grad.new_ones(1, len(grad))
        grad_shift = (ones @ grad)[0]
        grad_scale = (ones @ (grad * best))[0] * sign
        is_max = best.index_select(0, pillar)  # (N, C)
        torch.sub(values, is_max, out=is_max)  # zero at the maximum, else negative
        is_max.sign_().add_(1)
        ties = torch.zeros_like(best).index_add_(0, pillar, is_max).clamp_(min=1)
        is_max.mul_((grad / ties).index_select(0, pillar))
        return None, None, None, (is_max.T @ points) * scale[:, None], grad_scale, grad_shift
