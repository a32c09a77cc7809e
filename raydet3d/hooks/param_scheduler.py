"""Advance learning rates, momentum and other scheduled settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raydet3d.hooks.base import Hook
from raydet3d.registry import HOOKS

if TYPE_CHECKING:
    from raydet3d.runtime.runner import Runner


@HOOKS.register_module()
class ParamSchedulerHook(Hook):
    """Step schedulers after each iteration or epoch, and those that monitor a metric after each validation.

    Priority LOW: after the log has said which rate the step used, before `CheckpointHook` saves the next one.
    """

    priority = "LOW"

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance the schedulers that count iterations."""
        runner.schedule.advance(iters=1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Advance the schedulers that count epochs."""
        runner.schedule.advance(epochs=1)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Pass the metrics to the schedulers that monitor one."""
        runner.schedule.validated(metrics)
