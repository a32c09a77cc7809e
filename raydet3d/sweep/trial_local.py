"""A trial in one process: what Ray Tune calls in an actor that it uses again for the next trial."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ray import tune

from raydet3d.files import locked
from raydet3d.launch.worker import run_worker
from raydet3d.sweep.process_isolation import clean_slate
from raydet3d.sweep.trial_failures import reason_of
from raydet3d.sweep.trial_spec import TrialHook, TrialSpec
from raydet3d.sweep.trial_store import write_json

POINTER = "pointer.json"


def run_inline(config: dict[str, Any]) -> None:
    """Train one trial in this process.

    Args:
        config: ``task`` is the trial.
    """
    task = TrialSpec(**config["task"])
    # A stopped trial closes its files before the process is used again. Ray reads this in the process itself.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")
    # A sweep that was killed leaves its processes alive for some seconds: two may not write into one folder.
    with locked(task.folder / ".lock", timeout_s=120, busy=f"trial {task.trial} is run by another process"):
        _run(task)


def _run(task: TrialSpec) -> None:
    line = TuneReporter(task)
    plan, hook = task.to_run_spec(), TrialHook(task, line.send)
    try:
        with clean_slate(plan):
            try:
                run_worker(plan, hooks=[hook])
            finally:
                hook.close()
        task.end("done")
    except Exception as error:
        task.end("failed", reason_of(error))
        raise
    if line.is_cut:  # told to stop with the last report: the run has come to its end all the same
        sys.exit(0)


class TuneReporter:
    """The line to Ray Tune.

    Args:
        task: The trial.
    """

    def __init__(self, task: TrialSpec) -> None:
        self.task = task
        self.is_cut = False

    def send(self, report: dict[str, Any]) -> bool:
        """Hand a report on; where the trial is to stop, ``SystemExit`` comes out of this and ends its thread.

        Returns:
            True.
        """
        pointer = report.pop("pointer")
        try:
            if not self.task.pointers:
                tune.report(report)
                return True
            with tempfile.TemporaryDirectory() as folder:
                write_json(Path(folder) / POINTER, pointer)
                tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))
        except SystemExit:
            if report["at"] < self.task.length:
                raise
            self.is_cut = True
        return True
