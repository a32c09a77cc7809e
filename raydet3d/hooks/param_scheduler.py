"""`ParamSchedulerHook`: ticks each schedule at its own beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from raydet3d.hooks.base import Hook
from raydet3d.registry import HOOKS

if TYPE_CHECKING:
    from raydet3d.runtime.runner import Runner


@HOOKS.register_module()
class ParamSchedulerHook(Hook):
    """Steps schedules after each iteration or each epoch, and those that wait for a metric after each validation.

    Priority LOW: after the log has said which rate the step used, before `CheckpointHook` saves the next one.
    """

    priority = "LOW"

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Tick those that count iterations."""
        schedulers = runner.param_schedulers
        for scheduler in schedulers if type(schedulers) is list else _flat(schedulers):
            if not scheduler.by_epoch:
                scheduler.step()

    def after_train_epoch(self, runner: Runner) -> None:
        """Tick those that count epochs."""
        for scheduler in _flat(runner.param_schedulers):
            if scheduler.by_epoch:
                scheduler.step()

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Hand the metrics to those that wait for one."""
        if "train_loop" not in vars(runner):  # a validation on its own: nothing is trained, nothing scheduled
            return
        for scheduler in _flat(runner.param_schedulers):
            if getattr(scheduler, "need_val_args", False):
                scheduler.step(metrics)


def _flat(schedulers: Any) -> Iterator[Any]:
    """All schedulers of a list, or of a dict of lists (several optimizers)."""
    if isinstance(schedulers, list):
        yield from schedulers
    else:
        for some in schedulers.values():
            yield from some
