"""`IterTimerHook`: record data time, iteration time and ETA."""

from __future__ import annotations

import time

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Mode, Predictions, RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Record `data_time` (wait for the batch), `time` (the whole iteration) and `eta`, all in seconds.

    Times are measured on the host; a GPU may lag behind until the next log line, which synchronises with it. Pauses
    between iterations, such as a validation, are not counted. `eta` is the mean iteration time since this start of
    the run, times the number of remaining iterations. Priority NORMAL.
    """

    def __init__(self) -> None:
        self._last = 0.0
        self._total = 0.0
        self._count = 0

    def before_train(self, runner: RunContext) -> None:
        """Reset the counters, so that the mean covers this start of the run only."""
        self._total, self._count = 0.0, 0
        self._last = time.perf_counter()

    def after_val(self, runner: RunContext) -> None:
        """Restart the clock, so that validation time is not counted."""
        self._last = time.perf_counter()

    def _before_epoch(self, runner: RunContext, mode: Mode = "train") -> None:
        self._last = time.perf_counter()
        if mode != "train":
            self._eval_total, self._eval_count = 0.0, 0

    def before_train_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """Record the time spent waiting for the batch."""
        runner.message_hub.update_scalar("train/data_time", time.perf_counter() - self._last)

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Record the iteration time and update the ETA."""
        hub, now = runner.message_hub, time.perf_counter()
        took, self._last = now - self._last, now
        hub.update_scalar("train/time", took)
        self._total += took
        self._count += 1
        hub.runtime_info["eta"] = self._total / self._count * ((runner.max_iters or 0) - runner.iter - 1)

    def _before_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, mode: Mode = "train"
    ) -> None:
        runner.message_hub.update_scalar(f"{mode}/data_time", time.perf_counter() - self._last)

    def _after_iter(
        self,
        runner: RunContext,
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Losses | Predictions = None,
        mode: Mode = "train",
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
