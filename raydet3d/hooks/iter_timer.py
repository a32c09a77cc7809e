"""``IterTimerHook``: how long data and steps take, and how long it will be."""

from __future__ import annotations

import time
from typing import Any

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Mode, RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Keeps ``data_time`` (waiting for the batch) and ``time`` (the whole iteration) in seconds, and the ``eta``.

    Times are those of the host: a GPU may lag behind in between, but not for longer than to the next log line. A pause
    between iterations (a validation, say) belongs to none. The ``eta`` is the mean since this start of the run, times
    what is left. Priority NORMAL.
    """

    def __init__(self) -> None:
        self._last = 0.0
        self._total = 0.0
        self._count = 0

    def before_train(self, runner: RunContext) -> None:
        """Start the count: the average covers what this start of the run has done."""
        self._total, self._count = 0.0, 0
        self._last = time.perf_counter()

    def after_val(self, runner: RunContext) -> None:
        """Restart the clock for the next iteration of training."""
        self._last = time.perf_counter()

    def _before_epoch(self, runner: RunContext, mode: Mode = "train") -> None:
        self._last = time.perf_counter()
        if mode != "train":
            self._eval_total, self._eval_count = 0.0, 0

    def before_train_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """The batch is there."""
        runner.message_hub.update_scalar("train/data_time", time.perf_counter() - self._last)

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """The iteration is done."""
        hub, now = runner.message_hub, time.perf_counter()
        took, self._last = now - self._last, now
        hub.update_scalar("train/time", took)
        self._total += took
        self._count += 1
        hub.runtime_info["eta"] = self._total / self._count * ((runner.max_iters or 0) - runner.iter - 1)

    def _before_iter(self, runner: RunContext, batch_idx: int, data_batch: Any = None, mode: Mode = "train") -> None:
        runner.message_hub.update_scalar(f"{mode}/data_time", time.perf_counter() - self._last)

    def _after_iter(
        self, runner: RunContext, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: Mode = "train"
    ) -> None:
        hub = runner.message_hub
        now = time.perf_counter()
        took, self._last = now - self._last, now
        hub.update_scalar(f"{mode}/time", took)
        self._eval_total += took
        self._eval_count += 1
        loader = runner.val_dataloader if mode == "val" else runner.test_dataloader
        assert loader is not None
        left = len(loader) - batch_idx - 1
        hub.runtime_info["eta"] = self._eval_total / self._eval_count * left
