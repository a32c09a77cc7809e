"""Ray Tune's schedulers for a sweep, which replay the reports of earlier starts of the sweep.

Those that pause trials are optional features in files of their own, loaded where a sweep names them.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from typing_extensions import override

from raydet3d.sweep import spec
from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_store import FAILED, OPEN, Trial, TrialReport

OPTIONAL = {"hyperband": "raydet3d.sweep.hyperband", "pbt": "raydet3d.sweep.pbt"}
"""Modules of schedulers by type; each has a `make_scheduler`."""


def trial_id(trial: RayTrial) -> str:
    """Return our name of one of Ray's trials."""
    return str(trial.config["trial"])


def common_options(queue: TrialQueue) -> dict[str, str]:
    """Return the arguments that all of Ray's schedulers take: names of a report's entries, and the mode."""
    return {"time_attr": "at", "metric": "score", "mode": queue.sweep.mode}


def make_scheduler(queue: TrialQueue, scratch: Path) -> TrialScheduler:
    """Make the scheduler that a sweep names.

    Args:
        queue: Its trials; those of earlier starts have their reports.
        scratch: Folder for temporary files of this start.
    """
    scheduler, past = queue.sweep.scheduler, queue.trials.values()
    if isinstance(scheduler, spec.Asha):
        return Asha(
            past,
            **common_options(queue),
            max_t=scheduler.max_t or queue.longest,
            grace_period=scheduler.grace_period,
            reduction_factor=scheduler.reduction_factor,
            brackets=scheduler.brackets,
        )
    if isinstance(scheduler, spec.Median):
        return Median(
            past,
            **common_options(queue),
            grace_period=scheduler.grace_period,
            min_samples_required=scheduler.min_samples,
            # It would pause trials for want of others to compare with; here they continue.
            min_time_slice=float("inf"),
        )
    if scheduler.type in OPTIONAL:
        return importlib.import_module(OPTIONAL[scheduler.type]).make_scheduler(queue, scratch)
    return FIFOScheduler()


class _Resumed(FIFOScheduler):
    """A scheduler that receives the reports of earlier starts before its trials report again.

    Args:
        past: Trials of earlier starts. Those that have ended are replayed now, open ones when they are added.
        options: Of Ray's scheduler.
    """

    def __init__(self, past: Iterable[Trial], **options: float | str) -> None:
        super().__init__(**options)
        self._open = {trial.id: trial for trial in past if trial.state in OPEN}
        for trial in past:
            if trial.state not in OPEN and trial.state != FAILED and trial.reports:
                ended = RayTrial("of an earlier start", trial_id=trial.id, config={"trial": trial.id}, stub=True)
                super().on_trial_add(None, ended)
                for report in trial.reports:
                    self.replay(ended, report)

    @abstractmethod
    def replay(self, trial: RayTrial, report: TrialReport) -> None:
        """Replay a report of an earlier start."""

    @override
    def on_trial_add(self, tune_controller: object, trial: RayTrial) -> None:
        super().on_trial_add(tune_controller, trial)
        before = self._open.pop(trial_id(trial), None)
        for report in before.reports if before is not None else ():
            self.replay(trial, report)


class Asha(_Resumed, AsyncHyperBandScheduler):
    """Asynchronous successive halving."""

    @override
    def replay(self, trial: RayTrial, report: TrialReport) -> None:
        self.on_trial_result(None, trial, report)  # its decision is not needed


class Median(_Resumed, MedianStoppingRule):
    """The median stopping rule."""

    @override
    def replay(self, trial: RayTrial, report: TrialReport) -> None:
        MedianStoppingRule.on_trial_complete(self, None, trial, report)  # which does nothing but note the report

    @override
    def on_trial_complete(self, tune_controller: object, trial: RayTrial, result: TrialReport) -> None:
        if "score" in result:  # one that has failed early has none
            super().on_trial_complete(tune_controller, trial, result)
