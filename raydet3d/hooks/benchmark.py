"""``BenchmarkHook``: how many seconds an iteration takes, without the first ones."""

from __future__ import annotations

import time

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, RunContext
from raydet3d.registry import HOOKS

WARM_UP = 50
"""Iterations at an epoch's beginning that are not counted: loader workers start, caches fill."""


@HOOKS.register_module()
class BenchmarkHook(Hook):
    """Logs the mean time of an iteration (waiting for its batch included) for each epoch and for the whole training.

    The first 50 iterations of an epoch are left out, of epochs with fewer than 100 the first half. Epochs that a resume
    has begun in the middle count from there. Priority NORMAL; the log has the means also as ``train/speed``.
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
        """Start to count."""
        by_epoch = getattr(runner.train_loop, "by_epoch", True)
        done = runner.progress.batch if by_epoch else runner.iter
        self._begin((len(runner.train_dataloader) if by_epoch else runner.max_iters or 1) - done)

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Count."""
        now = time.perf_counter()
        self._seen += 1
        if self._seen > self._skip:
            self._count += 1
            self._total += now - self._last
        self._last = now

    def after_val(self, runner: RunContext) -> None:
        """A validation belongs to no iteration."""
        self._last = time.perf_counter()

    def after_train_epoch(self, runner: RunContext) -> None:
        """Log the epoch's mean."""
        if self._count:
            speed = self._total / self._count
            self._speeds.append(speed)
            runner.message_hub.update_scalar("train/speed", speed)
            runner.logger.info(
                "training speed of epoch %d: %.4f s/iter over %d iterations", runner.epoch + 1, speed, self._count
            )

    def after_train(self, runner: RunContext) -> None:
        """Log the mean over epochs."""
        if self._speeds:
            mean = sum(self._speeds) / len(self._speeds)
            runner.logger.info("training speed of the whole run: %.4f s/iter", mean)
