"""`BenchmarkHook`: measure the mean iteration time, excluding warm-up iterations."""

from __future__ import annotations

import time

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, RunContext
from raydet3d.registry import HOOKS

WARM_UP = 50
"""Iterations at the start of an epoch that are excluded, since loader workers start and caches are cold."""


@HOOKS.register_module()
class BenchmarkHook(Hook):
    """Log the mean iteration time, including the wait for the batch, of each epoch and of the whole training.

    The first 50 iterations of an epoch are excluded; for epochs of fewer than 100 iterations, the first half. After a
    resume within an epoch, counting starts at the resumed iteration. Epoch means are also recorded as `train/speed`
    (seconds per iteration). Priority NORMAL.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self._speeds: list[float] = []
        self._begin(1)

    def _begin(self, length: int) -> None:
        self._skip = min(WARM_UP, length // 2)
        self._seen = self._count = 0
        self._total = 0.0
        self._last = time.perf_counter()

    def before_train_epoch(self, runner: RunContext) -> None:
        """Reset the counters for the epoch."""
        by_epoch = getattr(runner.train_loop, "by_epoch", True)
        done = runner.progress.batch if by_epoch else runner.iter
        self._begin((len(runner.train_dataloader) if by_epoch else runner.max_iters or 1) - done)

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Add the iteration's time, unless it belongs to the warm-up."""
        now = time.perf_counter()
        self._seen += 1
        if self._seen > self._skip:
            self._count += 1
            self._total += now - self._last
        self._last = now

    def after_val(self, runner: RunContext) -> None:
        """Restart the clock, so that validation time is not counted."""
        self._last = time.perf_counter()

    def after_train_epoch(self, runner: RunContext) -> None:
        """Log the mean iteration time of the epoch."""
        if self._count:
            speed = self._total / self._count
            self._speeds.append(speed)
            runner.message_hub.update_scalar("train/speed", speed)
            runner.logger.info(
                "training speed of epoch %d: %.4f s/iter over %d iterations", runner.epoch + 1, speed, self._count
            )

    def after_train(self, runner: RunContext) -> None:
        """Log the mean over all epochs."""
        if self._speeds:
            mean = sum(self._speeds) / len(self._speeds)
            runner.logger.info("training speed of the whole run: %.4f s/iter", mean)
