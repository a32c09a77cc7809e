"""Schedulers that go on: told what happened before a stop, they decide as one that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet3d.sweep.spec import read_sweep
from raydet3d.sweep.trial_store import DONE, RUNNING, Trial


class Stub:
    """What a scheduler asks of Ray's trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        self.experiment_tag = trial_id
        self.status = "RUNNING"
        self.config: dict[str, Any] = {}

    def is_finished(self) -> bool:
        return False


def past(name: str, *scores: float, state: str = DONE) -> Trial:
    reports = [
        {"at": at, "score": score, "time": 10.0 * at + int(name), "generation": 0} for at, score in enumerate(scores, 1)
    ]
    return Trial(id=name, number=int(name), setting={}, seed=0, digest="", state=state, length=9, reports=reports)


def make(kind: dict[str, Any], trials: list[Trial], folder: Path) -> Any:
    from raydet3d.sweep.trial_schedulers import make_scheduler

    source = {"metric": "AP", "mode": "max", "trials": 4, "space": {"lr": [1, 2]}, "scheduler": kind}
    return make_scheduler(
        read_sweep(source),
        names={str(n): str(n) for n in range(8)},
        length=9,
        past=trials,
        explore=lambda *_: {},
        pointers=folder,
    )


BEFORE = [past("0", 10, 20, 30), past("1", 11, 21, 31), past("2", 12, 22, 32)]


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "asha", "grace_period": 1, "reduction_factor": 3},
        {"type": "median", "grace_period": 1, "min_samples": 3},
    ],
)
def test_a_bad_trial_is_measured_by_those_of_before(kind: dict[str, Any], tmp_path: Path) -> None:
    bad = {"at": 1, "score": 5.0}
    fresh, told = make(kind, [], tmp_path), make(kind, BEFORE, tmp_path)
    for scheduler, decision in ((fresh, "CONTINUE"), (told, "STOP")):
        trial = Stub("7")
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(Controller([trial]), trial, dict(bad)) == decision


class Controller:
    search_alg = None

    def __init__(self, trials: list[Stub]) -> None:
        self.trials = trials

    def get_trials(self) -> list[Stub]:
        return self.trials

    get_live_trials = get_trials


def test_a_population_stands_where_it_stood(tmp_path: Path) -> None:
    kind = {"type": "pbt", "interval": 2, "mutate": ["lr"]}
    trials = [past("0", 1, 2, 3, state=RUNNING), past("1", 5, 6, state=RUNNING)]
    scheduler = make(kind, trials, tmp_path)

    class Whole(Stub):
        class run_metadata:
            class checkpoint_manager:
                class checkpoint_config:
                    num_to_keep = None

    for trial, score, at in ((Whole("0"), 2, 2), (Whole("1"), 6, 2)):
        scheduler.on_trial_add(Controller([]), trial)
        state = scheduler._trial_state[trial]
        assert (state.last_score, state.last_perturbation_time, state.last_train_time) == (score, at, at)
        assert state.last_checkpoint is not None
