"""Advance learning rates, momentum and other scheduled settings."""

from __future__ import annotations

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Metrics, RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class ParamSchedulerHook(Hook):
    """Step schedulers after each iteration or epoch, and those that monitor a metric after each validation.

    Priority LOW: after `LoggerHook` logs the rate that the step used, before `CheckpointHook` saves the next one.
    """

    priority = "LOW"

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Advance the schedulers that count iterations."""
        runner.schedule.advance(iters=1)

    def after_train_epoch(self, runner: RunContext) -> None:
        """Advance the schedulers that count epochs."""
        runner.schedule.advance(epochs=1)

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Pass the metrics to the schedulers that monitor one."""
        if runner.is_training:
            runner.schedule.validated(metrics)
