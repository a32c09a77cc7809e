"""`BatchNorm2d`: batch normalization with accurate statistics on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.ops import batch_norm_channels_last


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with accurate statistics for channels-last maps of float32 on a CPU; elsewhere torch's own."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        own_statistics = self.training or self.running_mean is None
        if not own_statistics or not _is_affected(input):
            return super().forward(input)
        out, mean, var = batch_norm_channels_last(input, self.weight, self.bias, self.eps)
        if self.training and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = self.momentum
            if momentum is None:  # a cumulative average
                momentum = 1 / float(self.num_batches_tracked)
            count = input.numel() // input.shape[1]
            # `data`, because torch's kernel saves both for a backward pass that may still come, without using them.
            self.running_mean.data.lerp_(mean.to(self.running_mean), momentum)
            self.running_var.data.lerp_((var * (count / (count - 1))).to(self.running_var), momentum)
        return out


def _is_affected(x: Tensor) -> bool:
    """Whether torch's kernel would sum the statistics of a map inaccurately."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and x.numel() > x.shape[1]
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )
