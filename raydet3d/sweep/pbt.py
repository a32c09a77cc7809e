"""Population based training, loaded where a sweep names it: copy a top trial's checkpoint, perturb its hyperparameters.

Private in Ray Tune and used here only: `_get_new_config`, since a public `custom_explore_fn` does not know which trial
continues from which; and `_trial_state`, `_save_trial_state` and `_perturbation_interval`, since there is no public way
to restore what the scheduler knew of its trials before a stop.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TypedDict

from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import PopulationBasedTraining
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.sweep import spec
from raydet3d.sweep.run_trial import POINTER
from raydet3d.sweep.trial_config import digest
from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_schedulers import common_options, trial_id
from raydet3d.sweep.trial_spec import TrialSpec
from raydet3d.sweep.trial_store import OPEN, Trial, TrialReport, read_json, write_json

if not all(hasattr(PopulationBasedTraining, name) for name in ("_get_new_config", "_save_trial_state")):
    raise ImportError("population based training of this Ray is another one; raydet3d works with ray 2.60")


class Pointer(TypedDict):
    """What Ray Tune keeps as the checkpoint of a trial: the path of ours, and its epoch or iteration."""

    trial: str
    path: str
    at: float


def make_scheduler(queue: TrialQueue, scratch: Path) -> PopulationBasedTraining:
    """Make the scheduler.

    Args:
        queue: The sweep's trials.
        scratch: Folder for pointers to the checkpoints of open trials.
    """
    options = queue.sweep.scheduler
    assert isinstance(options, spec.PopulationBased)
    return Population(
        queue,
        scratch / "pointers",
        **common_options(queue),
        perturbation_interval=options.interval,
        burn_in_period=options.burn_in,
        quantile_fraction=options.quantile,
    )


class Population(PopulationBasedTraining):
    """Population based training over our checkpoints: the donor's is pinned until the copy has saved its own one.

    Args:
        queue: The sweep's trials.
        pointers: Folder for pointers to the checkpoints of open trials.
        options: Of Ray's scheduler.
    """

    def __init__(self, queue: TrialQueue, pointers: Path, **options: float | str) -> None:
        super().__init__(**options, custom_explore_fn=lambda config: config, log_config=False)
        self._queue = queue
        self._pointers = pointers
        self._open = {trial.id: trial for trial in queue.trials.values() if trial.state in OPEN and trial.reports}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()  # as the driver

    @override
    def on_trial_add(self, tune_controller: object, trial: RayTrial) -> None:
        """Add a trial in the state that it had in an earlier start."""
        # Ray refuses search algorithms beside a population, since most of them learn from results. Ours only hands out
        # the trials that the sweep has decided on, so the check is given a controller without one.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)
        before = self._open.pop(trial_id(trial), None)
        if before is None:
            return
        state, interval = self._trial_state[trial], self._perturbation_interval
        last = before.exploits[-1]["at"] if before.exploits else 0
        for report in before.reports:
            if report.get("generation", 0) == before.generation and report["at"] - last >= interval:
                last = report["at"]
                self._save_trial_state(state, last, report, trial)
                state.last_checkpoint = self._pointer_to(before, report)
        state.last_perturbation_time = last

    def _pointer_to(self, trial: Trial, report: TrialReport) -> tune.Checkpoint:
        folder = self._pointers / trial.id
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / POINTER, Pointer(trial=trial.id, path="", at=report["at"]))
        return tune.Checkpoint.from_directory(str(folder))

    @override
    def on_trial_result(self, tune_controller: object, trial: RayTrial, result: TrialReport) -> str:
        unpin(self._queue.trials[trial_id(trial)])  # it has saved before it reports
        return str(super().on_trial_result(tune_controller, trial, result))

    @override
    def on_trial_complete(self, tune_controller: object, trial: RayTrial, result: TrialReport) -> None:
        unpin(self._queue.trials[trial_id(trial)])
        super().on_trial_complete(tune_controller, trial, result)

    @override
    def on_trial_error(self, tune_controller: object, trial: RayTrial) -> None:
        unpin(self._queue.trials[trial_id(trial)])
        super().on_trial_error(tune_controller, trial)

    @override
    def _get_new_config(self, trial: RayTrial, trial_to_clone: RayTrial) -> tuple[dict[str, TrialSpec], dict[str, str]]:
        checkpoint = self._trial_state[trial_to_clone].last_checkpoint
        pointer = read_json(Path(checkpoint.path) / POINTER) if checkpoint is not None else None
        return {"trial": exploit(self._queue, trial_id(trial), trial_id(trial_to_clone), pointer)}, {}


def exploit(queue: TrialQueue, name: str, donor_name: str, pointer: Pointer | None) -> TrialSpec:
    """Let a trial continue from another's checkpoint with a perturbed setting.

    The checkpoint is pinned before this returns: the donor trains on, and its own one may be deleted.

    Args:
        queue: The sweep's trials.
        name: The bad one.
        donor_name: The good one.
        pointer: Names the good one's checkpoint; where that is gone, its newest one is taken.
    """
    trial, donor = queue.trials[name], queue.trials[donor_name]
    sweep, space = queue.sweep, queue.sweep.space
    assert isinstance(sweep.scheduler, spec.PopulationBased)
    generation = trial.generation + 1
    pinned = pin(queue, donor, Path(pointer["path"]).name if pointer else "", f"{name}-gen{generation}.pth")
    if pinned is None:
        get_logger().warning("trial %s: no checkpoint of trial %s is there to continue from", name, donor_name)
        return queue.spec_of(trial)
    rng = random.Random(f"{sweep.search.seed}/{name}/{generation}")
    own = {key: value for key, value in queue.filled(donor.setting).items() if key in sweep.mutate}
    setting = space.perturb({**own, **donor.setting}, sweep.mutate, rng, resample=sweep.scheduler.resample)
    try:
        queue.builder.build(setting)
    except InputError:
        setting = dict(donor.setting)
    unpin(trial)
    trial.exploits.append(
        {
            "at": pointer["at"] if pointer else donor.at,
            "donor": donor_name,
            "before": dict(trial.setting),
            "donors": dict(donor.setting),
            "time": time.time(),
        }
    )
    trial.setting = setting
    trial.digest = digest(queue.config_of(trial))
    trial.generation, trial.starts_from = generation, str(pinned)
    queue.store.save(trial)
    return queue.spec_of(trial)


def pin(queue: TrialQueue, donor: Trial, checkpoint: str, name: str) -> Path | None:
    """Keep a checkpoint under a second name, so that it stays even if the first is deleted.

    Args:
        queue: The sweep's trials.
        donor: The trial of the checkpoint.
        checkpoint: File name; where it is gone, the trial's newest one is taken.
        name: The second name.

    Returns:
        Its path; None where the trial has no checkpoint.
    """
    folder, target = queue.store.folder(donor.id), queue.store.path / "pins" / name
    target.parent.mkdir(exist_ok=True)
    with queue.retention.locked():
        newest_first = [one.manifest.name for one in reversed(queue.retention.checkpoints(donor.id))]
        for path in (folder / other for other in (checkpoint, *newest_first) if other):
            with suppress(OSError):
                _remove(target)
                if path.is_dir():  # of shards
                    shutil.copytree(path, target, copy_function=os.link)
                else:
                    os.link(path, target)
                return target
    return None


def unpin(trial: Trial) -> None:
    """Delete the second name of the checkpoint that a trial has started from."""
    if trial.starts_from is not None and Path(trial.starts_from).parent.name == "pins":
        _remove(Path(trial.starts_from))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
