"""Which checkpoints stay: the rule by hand-worked cases and at random, the policy on real files."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raydet3d.checkpoint.manifest import Manifest
from raydet3d.sweep.spec import Keep
from raydet3d.sweep.trial_retention import RetentionPolicy, TrialCheckpoint, select_of_sweep, usage
from raydet3d.sweep.trial_store import Rank, write_json


def one(trial: str, serial: int, score: float | None, size: int = 10) -> TrialCheckpoint:
    return TrialCheckpoint(trial, Manifest(f"{serial}.pth", [], size=size, step=serial, serial=serial), score)


def names(checkpoints: list[TrialCheckpoint]) -> list[str]:
    return [f"{h.trial}/{h.manifest.serial}" for h in checkpoints]


HELD = [one("a", 1, 5), one("a", 2, 9), one("a", 3, 7), one("b", 1, 8), one("b", 2, 6), one("c", 1, 1), one("c", 2, 2)]
RANKING: list[Rank] = [
    {"id": "a", "state": "done", "best": 9},
    {"id": "b", "state": "running", "best": 8},
    {"id": "c", "state": "stopped", "best": 2},
]


def test_last_and_best_of_each_trial_are_kept() -> None:
    assert names(select_of_sweep(HELD, ranking=RANKING, keep=Keep(last=1, best=1), mode="max")) == ["a/1", "c/1"]
    assert names(select_of_sweep(HELD, ranking=RANKING, keep=Keep(last=2, best=0), mode="max")) == ["a/1"]
    assert names(select_of_sweep(HELD, ranking=RANKING, keep=Keep(last=1, best=1), mode="min")) == ["a/2", "b/1"]


def test_only_ended_trials_outside_the_best_lose_their_checkpoints() -> None:
    assert names(select_of_sweep(HELD, ranking=RANKING, keep=Keep(trials=1), mode="max")) == ["a/1", "c/1", "c/2"]


def test_over_the_budget_the_worst_ended_trial_is_evicted_first_and_the_best_checkpoint_never() -> None:
    def order(over: int) -> list[str]:
        return names(select_of_sweep(HELD, ranking=RANKING, keep=Keep(), mode="max", over=over))

    assert order(20) == ["a/1", "c/1"]
    assert order(21) == ["a/1", "c/1", "c/2"]
    assert order(40) == ["a/1", "c/1", "c/2", "a/3"]
    assert order(60) == ["a/1", "c/1", "c/2", "a/3", "b/1", "b/2"]
    assert order(10_000) == ["a/1", "c/1", "c/2", "a/3", "b/1", "b/2"]  # a/2 is the best of all


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 100), st.integers(1, 50)), min_size=1, max_size=20),
    st.integers(0, 500),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_random_cases_keep_the_best_and_free_enough_bytes(rows: Any, over: int, last: int, best: int) -> None:
    checkpoints = [one(trial, i, score, size) for i, (trial, score, size) in enumerate(rows)]
    order = sorted({h.trial for h in checkpoints}, key=lambda t: -max(h.score for h in checkpoints if h.trial == t))
    ranking = [Rank(id=trial, state="done" if i % 2 else "running", best=0) for i, trial in enumerate(order)]
    drop = select_of_sweep(checkpoints, ranking=ranking, keep=Keep(last=last, best=best), mode="max", over=over)
    left = [h for h in checkpoints if h not in drop]
    assert max(h.score for h in checkpoints) in [h.score for h in left]
    assert sum(h.size for h in drop) >= over or len(left) == 1
    assert len(drop) == len({(h.trial, h.manifest.serial) for h in drop})


def save(folder: Path, serial: int, score: float | None, size: int = 5000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch_{serial}.pth"
    path.write_bytes(b"x" * size)
    scores = {} if score is None else {"AP": score}
    entry = {
        "name": path.name,
        "sha256": [],
        "size": size,
        "serial": serial,
        "step": serial,
        "scores": scores,
        "start": "gen0",
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(entry))
    return path


def test_the_folder_stays_below_its_byte_budget(tmp_path: Path) -> None:
    policy = RetentionPolicy(tmp_path, Keep(last=1, best=1, bytes=100_000), metric="AP", mode="max")
    states = [{"id": t, "state": "running" if t == "001" else "done", "best": b} for t, b in (("000", 9), ("001", 5))]
    write_json(tmp_path / "standing.json", states)
    save(tmp_path / "trials" / "000", 1, 9.0)
    for serial in range(1, 30):
        with policy.writing("001"):
            save(tmp_path / "trials" / "001", serial, 1.0 + serial / 100, size=30_000)
            assert usage(tmp_path) <= 100_000 + 40_000
        assert usage(tmp_path) <= 100_000
    assert [path.name for path in (tmp_path / "trials" / "000").glob("*.pth")] == ["epoch_1.pth"]
    assert (tmp_path / "trials" / "001" / "epoch_29.pth").exists()


def test_a_checkpoint_of_shards_is_deleted_as_a_whole(tmp_path: Path) -> None:
    policy = RetentionPolicy(tmp_path, Keep(last=1, best=0), metric="AP", mode="max")
    folder = tmp_path / "trials" / "000"
    for serial in (1, 2):
        path = save(folder, serial, float(serial))
        path.unlink()
        (path / "7").mkdir(parents=True)
        for rank in range(2):
            (path / "7" / f"__{rank}_0.distcp").write_bytes(b"x" * 5000)
    policy.prune()
    assert not (folder / "epoch_1.pth").exists()
    assert (folder / "epoch_2.pth" / "7" / "__1_0.distcp").exists()


def test_the_end_of_a_trial_deletes_only_where_it_can_change_something(tmp_path: Path) -> None:
    for trial in ("000", "001"):
        for serial in (1, 2):
            save(tmp_path / "trials" / trial, serial, float(serial))
    ranking = [Rank(id=trial, state="done", best=2.0) for trial in ("000", "001")]
    write_json(tmp_path / "standing.json", ranking)
    RetentionPolicy(tmp_path, Keep(), metric="AP", mode="max").prune("001")
    assert len(list(tmp_path.glob("trials/*/*.pth"))) == 3  # trial 000 has not changed
    RetentionPolicy(tmp_path, Keep(trials=1), metric="AP", mode="max").prune("001")
    assert [path.parent.name for path in tmp_path.glob("trials/*/*.pth")] == ["000"]
