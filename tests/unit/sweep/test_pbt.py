"""Population based training: what the scheduler knows after a stop, and checkpoints that are kept for a copy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_store import RUNNING
from tests.unit.sweep.test_trial_retention import save
from tests.unit.sweep.test_trial_schedulers import Controller, make, make_queue, past, ray_trial

KIND: dict[str, Any] = {"type": "pbt", "interval": 2, "mutate": {"lr": {"loguniform": [1e-3, 1e-1]}}, "resample": 0.0}


@pytest.fixture
def queue(tmp_path: Path) -> TrialQueue:
    trials = [past("000", 1, 2, 3, state=RUNNING), past("001", 5, 6, state=RUNNING)]
    made = make_queue(tmp_path, KIND, trials)
    for trial in trials:
        made.store.create(trial)
    return made


def test_a_population_goes_on_in_the_state_before_a_stop(tmp_path: Path) -> None:
    trials = [past("0", 1, 2, 3, state=RUNNING), past("1", 5, 6, state=RUNNING)]
    scheduler = make(tmp_path, KIND, trials)
    for trial, score, at in ((ray_trial("0"), 2, 2), (ray_trial("1"), 6, 2)):
        scheduler.on_trial_add(Controller([]), trial)
        state = scheduler._trial_state[trial]
        assert (state.last_score, state.last_perturbation_time, state.last_train_time) == (score, at, at)
        assert state.last_checkpoint is not None


def test_a_copy_starts_from_the_donors_checkpoint_with_another_value(queue: TrialQueue) -> None:
    from raydet3d.sweep.pbt import exploit

    donor = save(queue.store.folder("001"), 2, 6.0)
    spec = exploit(queue, "000", "001", {"trial": "001", "path": str(donor), "at": 2})
    trial = queue.trials["000"]
    assert trial.starts_from is not None
    assert spec.run.resume == trial.starts_from
    assert os.path.samefile(trial.starts_from, donor)
    assert (trial.generation, spec.generation) == (1, 1)
    assert trial.setting["lr"] in (pytest.approx(0.08), pytest.approx(0.1))
    assert [(one["donor"], one["at"], one["before"]) for one in trial.exploits] == [("001", 2, {"lr": 0.1})]
    assert queue.store.load()[0][0].exploits == trial.exploits


def test_a_trial_without_a_donors_checkpoint_goes_on_as_it_was(queue: TrialQueue) -> None:
    from raydet3d.sweep.pbt import exploit

    spec = exploit(queue, "000", "001", None)
    assert (spec.generation, queue.trials["000"].exploits) == (0, [])


def test_a_pinned_checkpoint_stays_when_its_trial_deletes_it(queue: TrialQueue) -> None:
    from raydet3d.sweep.pbt import pin, unpin

    donor = queue.trials["001"]
    first = save(queue.store.folder("001"), 1, 1.0)
    pinned = pin(queue, donor, first.name, "000-gen1.pth")
    assert pinned is not None
    save(queue.store.folder("001"), 2, 2.0)
    save(queue.store.folder("001"), 3, 3.0)
    queue.retention.prune()
    assert not first.exists()
    assert pinned.read_bytes() == b"x" * 5000
    again = pin(queue, donor, first.name, "002-gen1.pth")  # gone: the newest one is taken
    assert again is not None
    assert again.samefile(queue.store.folder("001") / "epoch_3.pth")
    trial = queue.trials["000"]
    trial.starts_from = str(pinned)
    unpin(trial)
    assert not pinned.exists()
    assert pin(queue, trial, "none.pth", "x.pth") is None


def test_a_sharded_checkpoint_is_pinned_as_a_whole(queue: TrialQueue) -> None:
    from raydet3d.sweep.pbt import pin, unpin

    path = save(queue.store.folder("001"), 1, 1.0)
    path.unlink()
    (path / "7").mkdir(parents=True)
    for rank in range(2):
        (path / "7" / f"__{rank}_0.distcp").write_bytes(b"x" * 5000)
    pinned = pin(queue, queue.trials["001"], path.name, "000-gen1.pth")
    assert pinned is not None
    assert (pinned / "7" / "__1_0.distcp").read_bytes() == b"x" * 5000
    queue.trials["000"].starts_from = str(pinned)
    unpin(queue.trials["000"])
    assert not pinned.exists()


@pytest.mark.parametrize("name", ["epoch_1.pth", "elsewhere.pth"])
def test_only_pins_are_unpinned(queue: TrialQueue, tmp_path: Path, name: str) -> None:
    from raydet3d.sweep.pbt import unpin

    path = tmp_path / name
    path.write_text("x")
    queue.trials["000"].starts_from = str(path)
    unpin(queue.trials["000"])
    assert path.exists()
