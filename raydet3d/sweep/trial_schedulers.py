"""Ray Tune's schedulers for a sweep, with the reports of earlier starts of the sweep.

Private in Ray Tune and used here only: `_trial_state`, `_perturbation_interval` and `_get_new_config` of its population
based training, which has no public way to know which trial is exploited, or to restore what it knew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
)

from raydet3d.sweep.run_trial import POINTER
from raydet3d.sweep.spec import Sweep
from raydet3d.sweep.trial_store import FAILED, OPEN, Trial, read_json, write_json

NEEDS_POINTERS = ("hyperband", "pbt")  # they pause trials, which Ray does with a checkpoint of its own

Explore = Callable[[str, str, dict[str, Any] | None], dict[str, Any]]
"""(trial, donor, the donor's pointer) to the trial's new Tune config."""


class _Named(Protocol):
    trial_id: str


class _Past:
    """A trial as far as schedulers look at it: its id."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def make_scheduler(
    sweep: Sweep, *, names: Mapping[str, str], length: float, past: Sequence[Trial], explore: Explore, pointers: Path
) -> Any:
    """Make the scheduler.

    Args:
        sweep: The sweep.
        names: Our name of each of Ray's trial ids.
        length: Length of the longest run.
        past: Trials of before, with their reports; those that are still open come again.
        explore: What population based training does when a trial is to go on from a better one.
        pointers: Folder for pointers to the checkpoints of open trials.
    """
    options = sweep.scheduler.options
    named = {"time_attr": "at", "metric": "score", "mode": sweep.mode}
    if sweep.scheduler.type == "asha":
        scheduler = Asha(
            names,
            **named,
            max_t=options["max_t"] or length,
            grace_period=options["grace_period"],
            reduction_factor=options["reduction_factor"],
            brackets=options["brackets"],
        )
        _replay(scheduler, past)
        return scheduler
    if sweep.scheduler.type == "median":
        return Median(
            past, names, **named, grace_period=options["grace_period"], min_samples_required=options["min_samples"]
        )
    if sweep.scheduler.type == "hyperband":
        return HyperBandScheduler(
            **named, max_t=int(options["max_t"] or length), reduction_factor=options["reduction_factor"]
        )
    if sweep.scheduler.type == "pbt":
        return Population(
            past,
            names,
            explore=explore,
            pointers=pointers,
            **named,
            perturbation_interval=options["interval"],
            burn_in_period=options["burn_in"],
            quantile_fraction=options["quantile"],
        )
    return FIFOScheduler()


def _replay(scheduler: Any, past: Sequence[Trial]) -> None:
    """Replay all earlier reports to a scheduler, in the order of their time."""
    for trial in past:
        scheduler.on_trial_add(None, _Past(trial.id))
    reports = [
        (report["time"], trial.id, report) for trial in past if trial.state != FAILED for report in trial.reports
    ]
    for _, name, report in sorted(reports, key=lambda item: item[:2]):
        scheduler.on_trial_result(None, _Past(name), report)


class Asha(AsyncHyperBandScheduler):
    """ASHA over our names of the trials, under which it was shown what they reported before.

    Args:
        names: Our name of each of Ray's trial ids.
        options: Of Ray's scheduler.
    """

    def __init__(self, names: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._names = names

    def _named(self, trial: Any) -> _Past:
        return _Past(self._names.get(trial.trial_id, trial.trial_id))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial."""
        super().on_trial_add(tune_controller, self._named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on."""
        return str(super().on_trial_result(tune_controller, self._named(trial), result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take the last result of a trial."""
        super().on_trial_complete(tune_controller, self._named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Remove a trial."""
        super().on_trial_remove(tune_controller, self._named(trial))


class Median(MedianStoppingRule):
    """The median stopping rule, with the values of earlier starts.

    Args:
        past: Trials of before.
        names: Our name of each of Ray's trial ids.
        options: Of Ray's rule.
    """

    def __init__(self, past: Sequence[Trial], names: Mapping[str, str], **options: Any) -> None:
        # It would pause trials for want of others to compare with; here they go on.
        super().__init__(**options, min_time_slice=float("inf"))
        self._names = names
        self._past = {trial.id: trial for trial in past if trial.state in OPEN}
        for trial in past:
            if trial.state not in OPEN and trial.state != FAILED:
                self._remember(_Past(trial.id), trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial, with what it has reported before."""
        super().on_trial_add(tune_controller, trial)
        name = self._names.get(trial.trial_id)
        if name in self._past:
            self._remember(trial, self._past.pop(name))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take the last result of a trial; one that has failed early has none."""
        if self._metric in result:
            super().on_trial_complete(tune_controller, trial, result)

    def _remember(self, key: _Named, trial: Trial) -> None:
        for report in trial.reports:
            self.on_trial_complete(None, key, report)  # which does nothing but note the result


class Population(PopulationBasedTraining):
    """Population based training over our checkpoints: the donor's is pinned, and `explore` makes the new setting.

    Args:
        past: Trials of before.
        names: Our name of each of Ray's trial ids.
        explore: Makes the new Tune config.
        pointers: Folder for pointers to the checkpoints of open trials.
        options: Of Ray's scheduler.
    """

    def __init__(
        self, past: Sequence[Trial], names: Mapping[str, str], *, explore: Explore, pointers: Path, **options: Any
    ) -> None:
        super().__init__(**options, custom_explore_fn=lambda config: config, log_config=False)
        self._past = {trial.id: trial for trial in past if trial.state in OPEN}
        self._names = names
        self._explore = explore
        self._pointers = pointers

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial in the state that it had."""
        # Ray refuses search algorithms beside a population, since most of them learn from results. Ours only hands out
        # the trials that the sweep has decided on, so the check is given a controller without one.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)
        before = self._past.pop(self._names.get(trial.trial_id, ""), None)
        if before is None:
            return
        state, interval = self._trial_state[trial], self._perturbation_interval
        last = next((e["at"] for e in reversed(before.exploits)), 0)
        for report in before.reports:
            if report.get("generation", 0) == before.generation and report["at"] - last >= interval:
                last = report["at"]
                self._save_trial_state(state, last, report, trial)
                state.last_checkpoint = self._pointer_to(before, report)
        state.last_perturbation_time = last

    def _pointer_to(self, trial: Trial, report: Mapping[str, Any]) -> Any:
        folder = self._pointers / trial.id
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / POINTER, {"trial": trial.id, "path": "", "at": report["at"]})
        return tune.Checkpoint.from_directory(str(folder))

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        checkpoint = self._trial_state[trial_to_clone].last_checkpoint
        pointer = read_json(Path(checkpoint.path) / POINTER) if checkpoint is not None else None
        return self._explore(self._names[trial.trial_id], self._names[trial_to_clone.trial_id], pointer), {}
