"""``EmptyCacheHook``: gives the GPU memory back that torch keeps for later."""

from __future__ import annotations

from typing import Any

import torch

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import Mode, RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Empties the GPU's cache in training, validation and testing alike; without a GPU there is nothing to empty.

    It costs the allocations that follow, and after each iteration it waits for the device: for those who share a GPU,
    or whose batches differ so much in size that memory falls to pieces. Priority NORMAL.

    Args:
        before_epoch: Before each epoch.
        after_epoch: After each epoch.
        after_iter: After each iteration.
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
        self, runner: RunContext, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: Mode = "train"
    ) -> None:
        if self._each:
            torch.cuda.empty_cache()
