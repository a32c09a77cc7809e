"""The hook that tells Ray how a run does: metrics and a pointer, once a validation, on every rank."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train

from raydet3d.hooks.base import Hook
from raydet3d.launch.signal_channel import FIRST_STEP, NODES, SignalChannel

if TYPE_CHECKING:
    from raydet3d.hooks.context import RunContext


LEAST_FREE = 1 << 20


class RayReportHook(Hook):
    """Reports each validation to Ray Train, and the first step to the driver.

    Ray gets the metrics and a tiny checkpoint that names where ours lies: weights never travel through Ray. A report is
    a barrier, and Ray takes one each time its controller looks, so there is one a validation and none an iteration.

    Args:
        channel: To the driver.
    """

    priority = "LOWEST"

    def __init__(self, channel: SignalChannel) -> None:
        self._channel = channel
        self._is_first = True

    def before_train(self, runner: RunContext) -> None:
        """Say where this rank works."""
        self._channel.put(f"{NODES}{runner.rank}", ray.get_runtime_context().get_node_id())

    def after_train_iter(self, runner: RunContext, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Say when the first step was done."""
        if self._is_first and runner.rank == 0:
            self._channel.put(FIRST_STEP, str(time.time()))
        self._is_first = False

    def after_val_epoch(self, runner: RunContext, metrics: Mapping[str, Any] | None = None) -> None:
        """Report the validation's metrics with the iteration they belong to."""
        scalars = {key: float(value) for key, value in (metrics or {}).items() if isinstance(value, int | float)}
        report: dict[str, Any] = {"epoch": runner.epoch, "iter": runner.iter, **scalars}
        if runner.rank != 0 or not _has_room(runner.work_dir):  # Ray would end the run over a full disk
            ray.train.report(report)
            return
        with tempfile.TemporaryDirectory() as folder:
            pointer = {"work_dir": str(runner.home), "iter": runner.iter}
            (Path(folder) / "pointer.json").write_text(json.dumps(pointer))
            ray.train.report(
                report,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"{runner.timestamp}-iter-{runner.iter}",
            )


def _has_room(folder: Path) -> bool:
    """Whether there is room for a file of a few bytes."""
    return shutil.disk_usage(folder).free > LEAST_FREE
