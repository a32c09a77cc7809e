"""Run one trial: what Ray Tune calls, in an actor that it uses again for the next trial.

The actor reserves nothing and trains nothing: it drives the trial's run, as `train` does its own, so that a trial is
watched, stopped and tried again by the same rules. The training process lives on between trials of one worker.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from raydet3d.launch.cluster import ClusterHandle
from raydet3d.launch.executors import Executor, ProcessExecutor, TorchExecutor
from raydet3d.launch.failures import describe_failure
from raydet3d.launch.retry_loop import RetryLoop
from raydet3d.launch.signal_channel import Report, SignalChannel, StopListener, WorkerLink
from raydet3d.launch.signals import Stopped
from raydet3d.sweep.trial_spec import TrialHook, TrialSpec
from raydet3d.sweep.trial_store import DONE, FAILED, write_json

if TYPE_CHECKING:
    from raydet3d.hooks.base import Hook

POINTER = "pointer.json"
INTERRUPTED = "interrupted"  # of a trial that was asked to stop, and resumes with the next start of the sweep
_process: ProcessExecutor | None = None  # the training process that this actor's trials share


class TuneReport(TypedDict, total=False):
    """Report of a validation to Ray Tune, which adds `done` and other keys."""

    trial: str
    at: float
    score: float
    restarts: int
    why: str
    done: bool


def sweep_channel() -> SignalChannel:
    """Return the channel by which the driver of a sweep asks its trials to stop."""
    import ray

    return SignalChannel(f"{ray.get_runtime_context().get_job_id()}/sweep")


def run_trial(config: dict[str, TrialSpec]) -> None:
    """Run one trial to its end.

    A trial that fails by its own error returns, with its reason in the trial's folder: Ray Tune is to try again only
    those whose actor died.

    Args:
        config: `trial` is the trial.
    """
    trial = config["trial"]
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")  # a stopped trial closes its files before reuse
    listener = StopListener(sweep_channel())
    reporter = TuneReporter(trial)
    loop = RetryLoop(
        trial.run,
        ClusterHandle(trial.options, "the cluster"),
        _executor(trial),
        listener,
        name=trial.name,
        make_hooks=partial(make_hooks, trial),
        on_report=reporter.send,
    )
    reporter.loop = loop
    try:
        result = loop.run()
    except Stopped as stopped:
        result = {"stopped": stopped.reason}
    except Exception as error:
        loop.log.error("the trial failed", exc_info=error)
        again = f" (tried again {loop.restarts} times)" if loop.restarts else ""
        trial.end(FAILED, f"{describe_failure(error)}{again}")
        return
    finally:
        listener.close()
        loop.close()
    if result.get("stopped") == "drain":
        raise RuntimeError("the trial's node is taken away")  # Ray Tune places the trial elsewhere
    if result.get("stopped"):
        trial.end(INTERRUPTED, str(result["stopped"]))
    elif not reporter.is_cut_short:
        trial.end(DONE)
    if reporter.is_stopped:
        sys.exit(0)


def _executor(trial: TrialSpec) -> Executor:
    global _process
    if trial.options.max_workers > 1:
        return TorchExecutor(str(Path(trial.sweep) / ".ray" / "train"))
    if _process is None:
        _process = ProcessExecutor(trial.options)
    return _process


def make_hooks(trial: TrialSpec, link: WorkerLink) -> list[Hook]:
    """Make the further hooks of a trial's workers."""
    return [TrialHook(trial, link.send)]


class TuneReporter:
    """Send the reports of a trial to Ray Tune.

    Args:
        trial: The trial.

    Attributes:
        loop: Drives the trial's run.
        is_stopped: Whether Ray Tune has ended the trial with a report.
        is_cut_short: Whether that was before the end of the run.
    """

    def __init__(self, trial: TrialSpec) -> None:
        self.trial = trial
        self.loop: RetryLoop | None = None
        self.is_stopped = self.is_cut_short = False

    def send(self, report: Report) -> bool:
        """Send a report and return whether the trial continues."""
        from ray import tune

        if self.is_stopped:
            return False
        found = {key: value for key, value in report.items() if key != "pointer"}
        found |= {"restarts": self.loop.restarts, "why": self.loop.why} if self.loop is not None else {}
        try:
            if not self.trial.pointers:
                tune.report(found)
                return True
            pointer = report["pointer"]
            assert isinstance(pointer, Mapping)
            with tempfile.TemporaryDirectory() as folder:
                write_json(Path(folder) / POINTER, pointer)
                tune.report(found, checkpoint=tune.Checkpoint.from_directory(folder))
        except SystemExit:
            self.is_stopped = True
            self.is_cut_short = float(str(report["at"])) < self.trial.length
            return False
        return True
