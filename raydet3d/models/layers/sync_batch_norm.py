"""Batch normalization with the statistics of all ranks, by MMDetection3D's names `naiveSyncBN1d` and `naiveSyncBN2d`.

Every rank counts the same, whatever its number of voxels, and the running variance is the biased one: the published
checkpoints were trained so. With one rank both are plain batch normalization.
"""

from __future__ import annotations

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from typing_extensions import override

from raydet3d.dist import get_world_size
from raydet3d.models.layers.batch_norm2d import BatchNorm2d
from raydet3d.registry import MODELS


class _MeanOverRanks(torch.autograd.Function):
    """Mean over the ranks, of values in the forward pass and of gradients in the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        torch_dist.all_reduce(total)
        return total / get_world_size()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        total = grad.clone()
        torch_dist.all_reduce(total)
        return total / get_world_size()


def _normalize(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalize (B, C, ...) by the moments of all ranks, and update the running ones."""
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    axes = [0, *range(2, x.ndim)]
    moments = torch.cat((values.mean(axes), values.square().mean(axes)))
    reduced: Tensor = _MeanOverRanks.apply(moments)
    mean, square = reduced.split(x.shape[1])
    var = square - mean * mean
    if norm.running_mean is not None and norm.running_var is not None:
        momentum = 0.1 if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.detach().to(norm.running_mean), momentum)
        norm.running_var.lerp_(var.detach().to(norm.running_var), momentum)
    scale = torch.rsqrt(var + norm.eps)
    if norm.affine:
        scale = norm.weight * scale
    bias = -mean * scale + norm.bias if norm.affine else -mean * scale
    shape = (1, -1, *(1,) * (x.ndim - 2))
    out: Tensor = values * scale.view(shape) + bias.view(shape)
    return out.to(x.dtype)


@MODELS.register_module("naiveSyncBN1d")
class NaiveSyncBatchNorm1d(nn.BatchNorm1d):
    """Batch normalization of (N, C) or (N, C, L) with the statistics of all ranks."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or get_world_size() == 1:
            return super().forward(input)
        return _normalize(self, input)


@MODELS.register_module("naiveSyncBN2d")
class NaiveSyncBatchNorm2d(BatchNorm2d):
    """Batch normalization of (B, C, H, W) with the statistics of all ranks."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or get_world_size() == 1:
            return super().forward(input)
        return _normalize(self, input)
