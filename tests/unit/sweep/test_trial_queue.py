"""The trials of a sweep: what the scheduler is told of their length, and what a process is told of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raydet3d.config import find_config
from raydet3d.sweep.spec import read_sweep
from raydet3d.sweep.trial_config import TrialConfigBuilder
from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_store import TrialStore
from tests.kit.sweeps import write_config


def queue(folder: Path, **more: Any) -> TrialQueue:
    path = write_config(folder)
    spec = read_sweep({"metric": "AP", "mode": "max", "trials": 3, "space": {"epochs": {"grid": [2, 5, 9]}}})
    builder = TrialConfigBuilder(config=find_config(path), sweep=spec, options={})
    store = TrialStore(folder / "out")
    return TrialQueue(builder, store, store.load()[0], metric="AP", **more)


def test_the_longest_run_counts_the_space_and_earlier_trials(tmp_path: Path) -> None:
    assert queue(tmp_path, longest=9.0).longest == 9
    first = queue(tmp_path)
    lengths = {trial.length for trial in iter(first.next, None)}
    assert lengths == {2, 5, 9}
    assert queue(tmp_path).longest == 9


def test_a_trial_can_start_from_a_sharded_checkpoint(tmp_path: Path) -> None:
    made = queue(tmp_path)
    trial = made.next()
    assert trial is not None
    (tmp_path / "epoch_1.pth").mkdir()
    trial.starts_from = str(tmp_path / "epoch_1.pth")
    assert made.spec_of(trial).run.resume == trial.starts_from
