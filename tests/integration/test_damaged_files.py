"""Random damage to every file that a run or a sweep reads back: the next start loses no weights and shows no traceback.

Each start ends with the weights of the undisturbed run, or with one line (exit 2) and with all that was there.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest

from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.files import append_json_line
from raydet3d.sweep.ranking import Ranking
from raydet3d.sweep.trial_store import REPORTS, State, Trial, TrialReport, TrialStore
from tests.kit.command import INTERRUPTED, interrupt, run_train, toy_config
from tests.kit.damage import damage

TOY = {"size": 16, "every": 2}  # 8 iterations, saved after 2, 4, 6 and 8
LAST = "iter_8.pth"
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a config and the work dir of a run in several states."""
    root = tmp_path_factory.mktemp("states")
    config = toy_config(root / "finished", **TOY)
    assert run_train(config)[0] == 0
    config = toy_config(root / "interrupted", **TOY)
    assert run_train(config, at={5: interrupt})[0] == INTERRUPTED
    config = toy_config(root / "earlier", **TOY)
    assert run_train(config, at={5: interrupt})[0] == INTERRUPTED
    other = toy_config(root / "other", dropout=0.1, **TOY)
    work_dir = root / "earlier" / "work"
    assert run_train(other, "--fresh", at={3: interrupt}, work_dir=work_dir)[0] == INTERRUPTED
    return {name: root / name for name in ("finished", "interrupted", "earlier")}


def digests(work_dir: Path) -> set[str]:
    """Digests of all checkpoints in a work dir, wherever in it they are."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in work_dir.rglob("*.pth*") if path.is_file()}


def weights(path: Path) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in read_checkpoint(path)["state_dict"].items()}


def read_back(work_dir: Path) -> list[Path]:
    """The files of a work dir that a start may read."""
    files = [path for path in sorted(work_dir.rglob("*")) if path.is_file()]
    return [path for path in files if path.suffix != ".log" and "tfevents" not in path.name]


@pytest.mark.parametrize(("count", "seed"), [(70, 1), *(pytest.param(200, seed, marks=SLOW) for seed in range(10, 17))])
def test_a_start_after_damage_ends_with_the_undisturbed_weights_or_one_line(
    states: dict[str, Path], tmp_path: Path, count: int, seed: int
) -> None:
    rng = random.Random(seed)
    expected = weights(states["finished"] / "work" / LAST)
    for number in range(count):
        state = rng.choice(sorted(states))
        folder = tmp_path / "case"
        shutil.copytree(states[state], folder)
        work_dir = folder / "work"
        target = rng.choice(read_back(work_dir))
        intact = digests(work_dir)
        what = f"case {number}: {state}, {damage(target, rng)}"
        intact &= digests(work_dir)
        code, out = run_train(folder / "toy.py")
        assert "Traceback" not in out, f"{what}\n{out}"
        if code == 0:
            assert weights(work_dir / LAST) == expected, f"{what}\n{out}"
        else:
            assert code == 2, f"{what}\n{out}"
            assert out.count("raydet3d: error: ") == 1, f"{what}\n{out}"
            assert intact <= digests(work_dir), f"{what}\n{out}"
        shutil.rmtree(folder)


# -- sweeps -----------------------------------------------------------------------------------------------------


def write_sweep(folder: Path) -> list[Trial]:
    """A sweep's folder with three trials: one done, one running, one waiting."""
    store = TrialStore(folder)
    trials = []
    states: tuple[State, ...] = ("done", "running", "waiting")
    for number, state in enumerate(states):
        trial = Trial(
            id=f"00{number}", number=number, setting={"lr": 0.1 * (number + 1)}, seed=None, digest="d", length=3.0
        )
        store.create(trial)
        trial.state = state
        for at in range(1, {"done": 3, "running": 2, "waiting": 0}[state] + 1):
            report: TrialReport = {
                "at": at,
                "score": 10.0 * at + number,
                "epoch": at,
                "iter": 4 * at,
                "metrics": {"toy/AP": at},
            }
            append_json_line(store.folder(trial.id) / REPORTS, report)
            trial.reports.append(report)
        store.save(trial)
        trials.append(trial)
    store.write_ranking(Ranking(trials, "max").ranks())
    store.note_time(12.5)
    (folder / "sweep.json").write_text('{"name": "toy", "metric": "toy/AP", "mode": "max"}')
    return trials


@pytest.mark.parametrize(("count", "seed"), [(30, 3), pytest.param(600, 4, marks=SLOW)])
def test_a_sweep_reads_what_is_left_of_its_records(tmp_path: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    write_sweep(tmp_path / "sweep")
    for number in range(count):
        folder = tmp_path / "case"
        shutil.copytree(tmp_path / "sweep", folder)
        target = rng.choice(read_back(folder))
        what = f"case {number}: {damage(target, rng)}"
        store = TrialStore(folder)
        trials, _ = store.load()
        assert [trial.id for trial in trials] == ["000", "001", "002"], what
        for trial in trials:
            if trial.id not in target.parts:
                assert trial.setting == {"lr": 0.1 * (trial.number + 1)}, what
                assert len(trial.reports) == 3 - trial.number - (trial.number == 2), what
        assert isinstance(store.ranking(), list), what
        assert store.time_spent() >= 0, what
        assert len(Ranking(trials, "max").trials()) == 3, what
        for trial in trials:  # what a start writes
            append_json_line(store.folder(trial.id) / REPORTS, {"at": 9, "score": 1.0})
            store.save(trial)
        store.write_ranking(Ranking(trials, "max").ranks())
        store.note_time(13.0)
        again, wrong = TrialStore(folder).load()
        assert (len(again), wrong) == (3, []), what
        shutil.rmtree(folder)
