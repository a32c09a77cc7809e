"""`EmptyCacheHook`: release unused memory of PyTorch's CUDA caching allocator."""

from __future__ import annotations

import torch

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Mode, Predictions, RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Call `torch.cuda.empty_cache` in training, validation and testing; without a GPU it has no effect.

    Later allocations become slower, and `after_iter` synchronises with the device at each iteration. Useful on a shared
    GPU, or if batch sizes vary so much that memory becomes fragmented. Priority NORMAL.

    Args:
        before_epoch: Empty the cache before each epoch.
        after_epoch: Empty the cache after each epoch.
        after_iter: Empty the cache after each iteration.
    """

    priority = "NORMAL"

    def __init__(self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False) -> None:
        self._before = before_epoch
        self._after = after_epoch
        self._each = after_iter

    def _before_epoch(self, runner: RunContext, mode: Mode = "train") -> None:
        if self._before:
            torch.cuda.empty_cache()

    def _after_epoch(self, runner: RunContext, mode: Mode = "train") -> None:
        if self._after:
            torch.cuda.empty_cache()

    def _after_iter(
        self,
        runner: RunContext,
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Losses | Predictions = None,
        mode: Mode = "train",
    ) -> None:
        if self._each:
            torch.cuda.empty_cache()
