"""The hook that tells Ray how a run does: metrics and a pointer, once a validation, on every rank."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train

from raydet3d.hooks.hook import Hook

if TYPE_CHECKING:
    from raydet3d.runtime.runner import Runner


class RayReportHook(Hook):
    """Reports each validation to Ray Train.

    Ray gets the metrics and a tiny checkpoint that names where ours lies: weights never travel through Ray. A report is
    a barrier, and Ray takes one each time its controller looks, so there is one a validation and none an iteration.
    """

    priority = "LOWEST"

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report the validation's metrics with the iteration they belong to."""
        scalars = {key: float(value) for key, value in (metrics or {}).items() if isinstance(value, int | float)}
        report: dict[str, Any] = {"epoch": runner.epoch, "iter": runner.iter, **scalars}
        if runner.rank != 0:
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
