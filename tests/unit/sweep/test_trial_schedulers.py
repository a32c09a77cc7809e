"""Schedulers of a sweep that goes on: told what happened before a stop, they decide as if there had been none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raydet3d.config import find_config
from raydet3d.sweep.spec import read_sweep
from raydet3d.sweep.trial_config import TrialConfigBuilder
from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_store import DONE, RUNNING, State, Trial, TrialStore
from tests.kit.sweeps import write_config


class Controller:
    """What a scheduler asks of Ray Tune's loop."""

    search_alg = None

    def __init__(self, trials: list[Any]) -> None:
        self.trials = trials

    def get_trials(self) -> list[Any]:
        return self.trials

    get_live_trials = get_trials


def ray_trial(name: str) -> Any:
    from ray.tune.experiment import Trial as RayTrial

    trial = RayTrial("toy", trial_id=f"id-{name}", config={"trial": name}, stub=True)
    trial.status = RayTrial.RUNNING
    return trial


def past(name: str, *scores: float, state: State = DONE) -> Trial:
    one = Trial(id=name, number=int(name), setting={"lr": 0.1}, seed=0, digest=name, state=state, length=9)
    for at, score in enumerate(scores, 1):
        one.reports.append({"at": at, "score": score, "time": 10.0 * at + int(name), "generation": 0})
    return one


def make_queue(folder: Path, kind: dict[str, Any], trials: list[Trial]) -> TrialQueue:
    source = {"metric": "AP", "mode": "max", "trials": 4, "space": {"lr": [0.1, 0.2]}, "scheduler": kind}
    builder = TrialConfigBuilder(
        config=find_config(write_config(folder)), sweep=read_sweep({**source, "cfg_options": {"epochs": 9}}), options={}
    )
    return TrialQueue(builder, TrialStore(folder / "out"), trials, metric="AP", longest=9)


def make(folder: Path, kind: dict[str, Any], trials: list[Trial]) -> Any:
    from raydet3d.sweep.trial_schedulers import make_scheduler

    return make_scheduler(make_queue(folder, kind, trials), folder)


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "asha", "grace_period": 1, "reduction_factor": 3},
        {"type": "median", "grace_period": 1, "min_samples": 3},
    ],
)
@pytest.mark.parametrize("state", [DONE, RUNNING])
def test_a_bad_trial_is_compared_with_those_of_an_earlier_start(
    kind: dict[str, Any], state: State, tmp_path: Path
) -> None:
    before = [past("0", 10, 20, 30, state=state), past("1", 11, 21, 31, state=state), past("2", 12, 22, 32)]
    fresh, told = make(tmp_path, kind, []), make(tmp_path, kind, before)
    for scheduler, decision in ((fresh, "CONTINUE"), (told, "STOP")):
        trials = [ray_trial(name) for name in ("0", "1", "7")]
        for trial in trials:
            scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(Controller(trials), trials[-1], {"at": 1, "score": 5.0}) == decision


def test_a_report_of_an_earlier_start_is_not_judged_again(tmp_path: Path) -> None:
    kind = {"type": "asha", "grace_period": 1, "reduction_factor": 3}
    scheduler = make(tmp_path, kind, [past("0", 1, state=RUNNING), past("1", 50), past("2", 60)])
    trial = ray_trial("0")
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(Controller([trial]), trial, {"at": 2, "score": 2.0}) == "CONTINUE"


def test_optional_schedulers_are_loaded_where_a_sweep_names_them() -> None:
    names = ("pbt", "hyperband", "optuna_search")
    code = "import sys, raydet3d.sweep.tune_driver, raydet3d.tune\n"
    code += f"print([name for name in {names} if f'raydet3d.sweep.{{name}}' in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
