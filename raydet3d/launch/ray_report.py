"""Hooks of a worker on Ray: report node and first step to the driver, and metrics to Ray Train."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import ray
from typing_extensions import override

from raydet3d.hooks.base import Hook
from raydet3d.launch.signal_channel import FIRST_STEP, NODES, WorkerLink

if TYPE_CHECKING:
    from raydet3d.hooks.context import DataBatch, Losses, Metrics, RunContext


class DriverLinkHook(Hook):
    """Report to the driver on which node this rank trains, and when the first step was done.

    Args:
        link: To the driver.
    """

    priority = "LOWEST"

    def __init__(self, link: WorkerLink) -> None:
        self._link = link
        self._is_first = True

    @override
    def before_train(self, runner: RunContext) -> None:
        self._link.put(f"{NODES}{runner.rank}", ray.get_runtime_context().get_node_id())

    @override
    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        if self._is_first and runner.rank == 0:
            self._link.put(FIRST_STEP, str(time.time()))
        self._is_first = False


class RayReportHook(Hook):
    """Reports the metrics of each validation to Ray Train, on every rank.

    A report is a barrier, and Ray takes one each time its controller polls, so there is one a validation and none an
    iteration. Checkpoints never travel through Ray: our own store has them.
    """

    priority = "LOWEST"

    @override
    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        import ray.train

        scalars = {key: float(value) for key, value in (metrics or {}).items() if isinstance(value, int | float)}
        ray.train.report({"epoch": runner.epoch, "iter": runner.iter, **scalars})
