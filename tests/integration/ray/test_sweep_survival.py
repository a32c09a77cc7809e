"""kill -9 of a sweep's driver half way: the same command goes on, whatever the search and the scheduler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydet3d.sweep.search import make_search
from raydet3d.sweep.spec import Sweep, read_sweep
from raydet3d.sweep.trial_store import Trial, TrialStore
from tests.integration.ray.test_sweep import check_copies
from tests.kit.sweeps import read_spy, write_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[3]
SPACE = {"lr": {"loguniform": [1e-4, 1e-1]}}


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "raydet3d.tune", "toy.py", "sweep.yaml", "--work-dir", str(folder / "out")]


def environment() -> dict[str, str]:
    without = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**without, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def prepare(folder: Path, **source: Any) -> Sweep:
    write_config(folder)
    given = {"metric": "AP", "mode": "max", "space": SPACE, "cfg_options": {"nap": 0.3, "epochs": 6}, **source}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return read_sweep(folder / "sweep.yaml")


def trained(folder: Path) -> float:
    return sum(trial.at for trial in TrialStore(folder / "out").load()[0])


def kill_at(folder: Path, epochs: float) -> list[Trial]:
    """Start the sweep, kill -9 it once so many epochs are trained; returns the trials as they were then."""
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(command(folder), cwd=folder, env=environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while trained(folder) < epochs:
            assert first.poll() is None, (folder / "first.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
    return TrialStore(folder / "out").load()[0]


def go_on(folder: Path) -> tuple[str, list[Trial]]:
    run = subprocess.run(command(folder), cwd=folder, env=environment(), capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout + run.stderr, TrialStore(folder / "out").load()[0]


def check(folder: Path, before: list[Trial], after: list[Trial], *, trials: int) -> None:
    """Finished trials were not run again; the others went on from a checkpoint, not from the beginning."""
    assert len(after) == trials
    assert all(trial.state in ("done", "stopped") for trial in after)
    resumed = 0
    for old in before:
        spy = read_spy(folder / "out" / "trials" / old.id) if old.at else []
        begins = [entry["epoch"] for entry in spy if entry["what"] == "begin" and entry["start"] == "gen0"]
        new = next(trial for trial in after if trial.id == old.id)
        if old.state == "done":
            assert begins == [0]
            assert [r["time"] for r in new.reports] == [r["time"] for r in old.reports]
        elif old.at and len(begins) > 1:
            assert begins[0] == 0
            assert begins[1] >= 1
            resumed += 1
    assert resumed or all(old.state == "done" or not old.at for old in before)


def test_a_random_sweep_goes_on_after_its_driver_was_killed(tmp_path: Path) -> None:
    sweep = prepare(tmp_path, trials=5, concurrency=2)
    before = kill_at(tmp_path, 15)
    out, after = go_on(tmp_path)
    check(tmp_path, before, after, trials=5)
    assert "it resumes" in out
    settings = make_search(sweep.space, sweep.search, "max")
    for trial in after:
        assert trial.setting == settings.propose(trial.number)
        assert [report["at"] for report in trial.reports] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_an_optuna_sweep_goes_on_after_its_driver_was_killed(tmp_path: Path) -> None:
    sweep = prepare(tmp_path, trials=7, concurrency=1, search={"type": "optuna", "startup": 2})
    before = kill_at(tmp_path, 21)
    _, after = go_on(tmp_path)
    check(tmp_path, before, after, trials=7)
    settings = make_search(sweep.space, sweep.search, "max")
    for trial in after:  # the model was told the same as in a sweep that nobody stopped
        assert trial.setting == settings.propose(trial.number)
        settings.record(trial.setting)
        settings.tell(trial.setting, trial.best("max"))


@pytest.mark.slow
def test_a_population_goes_on_after_its_driver_was_killed(tmp_path: Path) -> None:
    prepare(
        tmp_path,
        trials=4,
        space={"lr": {"choice": [1e-6, 2e-6, 1e-2, 2e-2]}},
        scheduler={"type": "pbt", "interval": 1, "mutate": {"lr": {"loguniform": [1e-3, 5e-2]}}, "resample": 0.0},
        cfg_options={"nap": 0.3, "epochs": 8},
    )
    kill_at(tmp_path, 16)
    _, after = go_on(tmp_path)
    from raydet3d.sweep.results import read_results

    assert [trial.state for trial in after] == ["done"] * 4
    assert check_copies(read_results(tmp_path / "out"), of=8) >= 2
    assert min(trial.best("max") or 0 for trial in after) > 55


@pytest.mark.slow
def test_a_sweep_goes_on_with_damaged_records_and_names_each(tmp_path: Path) -> None:
    prepare(tmp_path, trials=4, concurrency=2, cfg_options={"nap": 0.3, "epochs": 3})
    before = kill_at(tmp_path, 6)
    ended = next(trial for trial in before if trial.at == 3)
    (tmp_path / "out" / "trials" / ended.id / "trial.json").write_text('{"id": "0')
    (tmp_path / "out" / "sweep.json").write_text('{"metric"')
    (tmp_path / "out" / "standing.json").write_text("")
    (tmp_path / "out" / ".ray").mkdir(exist_ok=True)
    (tmp_path / "out" / ".ray" / "tuner.pkl").write_bytes(b"\x80")
    out, after = go_on(tmp_path)
    assert out.count("cannot be read") == 2
    assert f"the record of trial {ended.id} cannot be read: it resumes from its checkpoints" in out
    again = next(trial for trial in after if trial.id == ended.id)
    assert [r["time"] for r in again.reports] == [r["time"] for r in ended.reports]
    assert [trial.state for trial in after] == ["done"] * 4
