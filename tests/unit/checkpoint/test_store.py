"""The store: damage it in every way, and ask it again. Reads go through torch's safe loader."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.checkpoint.storage import LocalStorage
from raydet3d.checkpoint.store import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, run="r", start="s")


def fill(store: CheckpointStore, count: int = 3, **kwargs: Any) -> None:
    for i in range(1, count + 1):
        state = {"state_dict": {"w": torch.full((50, 50), float(i))}, "meta": {"seed": 7}}
        store.save(state, f"epoch_{i}.pth", step=10 * i, group="epoch", **kwargs)
    store.drain()


def names(store: CheckpointStore) -> list[str]:
    return [name for name in store.storage.names() if name.endswith(".pth")]


def test_what_is_written_is_read(store: CheckpointStore) -> None:
    fill(store, scores={"AP": 0.5})
    assert store.latest() == store.storage.path / "epoch_3.pth"
    assert read_checkpoint(store.storage.path / "epoch_3.pth")["state_dict"]["w"][0, 0] == 3
    assert (store.storage.path / "last_checkpoint").read_text() == "epoch_3.pth"  # no absolute path: folders move
    manifest = json.loads((store.storage.path / "epoch_2.pth.json").read_text())
    assert (manifest["step"], manifest["scores"], manifest["run"]) == (20, {"AP": 0.5}, "r")
    assert manifest["size"] == (store.storage.path / "epoch_2.pth").stat().st_size
    assert not [name for name in store.storage.names() if name.endswith(".tmp")]


def test_what_is_saved_is_what_was_there_at_that_moment(store: CheckpointStore) -> None:
    weight = torch.zeros(1000, 1000)
    store.save({"state_dict": {"w": weight}}, "a.pth", step=1)
    weight += 1  # training goes on while the thread writes
    store.drain()
    assert read_checkpoint(store.storage.path / "a.pth")["state_dict"]["w"].abs().max() == 0


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "word"),
    [(truncate, "has .* bytes, its manifest says"), (flip_a_bit, "is damaged"), (Path.unlink, "cannot be read")],
)
def test_a_damaged_newest_is_named_in_one_line_and_passed_over(
    store: CheckpointStore, damage: Any, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    # F5
    fill(store)
    damage(store.storage.path / "epoch_3.pth")
    with caplog.at_level(logging.WARNING):
        assert store.latest() == store.storage.path / "epoch_2.pth"
    (record,) = caplog.records
    assert "epoch_3.pth" in record.getMessage()
    assert record.getMessage().count("\n") == 0
    assert __import__("re").search(word, record.getMessage())


def test_without_its_manifest_a_checkpoint_does_not_exist(store: CheckpointStore) -> None:
    fill(store)
    (store.storage.path / "epoch_3.pth.json").unlink()
    assert store.latest() == store.storage.path / "epoch_2.pth"
    (store.storage.path / "epoch_2.pth.json").write_text("{torn")
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_killed_while_writing(store: CheckpointStore) -> None:
    # F5
    fill(store)
    # What a kill can leave: a temporary file; a file without its manifest; and when one is replaced by one of its
    # name, the new file under a manifest that names both.
    store.storage.prepare("epoch_4.pth", lambda file: [None, file.write(b"half")][0])
    assert store.latest() == store.storage.path / "epoch_3.pth"
    store.clean_up()
    assert ".epoch_4.pth.tmp" not in store.storage.names()
    shutil.copy(store.storage.path / "epoch_1.pth", store.storage.path / "epoch_4.pth")
    assert store.latest() == store.storage.path / "epoch_3.pth"


@pytest.mark.parametrize("stop", range(1, 12))
def test_at_no_moment_of_a_write_is_there_no_latest(tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # F6
    """Replace the only checkpoint by one of its name, and stop after each step that touches the disk."""
    store = CheckpointStore(tmp_path, run="r")
    fill(store, 1)
    calls = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise OSError("killed")
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        store.save({"state_dict": {"w": torch.ones(3)}}, "epoch_1.pth", step=10, group="epoch", limit=1)
        store.drain()
    latest = CheckpointStore(tmp_path).latest()
    assert latest is not None
    assert read_checkpoint(latest)["state_dict"]["w"].shape in ((3,), (50, 50))


def test_keep_limits_count_a_group_of_this_run(store: CheckpointStore) -> None:
    # F6
    fill(store, 2)
    other = CheckpointStore(store.storage.path, run="another")
    store.keep_other_runs = other.keep_other_runs = False
    other.save({"state_dict": {}}, "best_AP_epoch_1.pth", step=1, group="best_AP", limit=1, point=False)
    other.save({"state_dict": {}}, "epoch_9.pth", step=90, group="epoch", limit=1)
    other.drain()
    assert names(store) == ["best_AP_epoch_1.pth", "epoch_1.pth", "epoch_2.pth", "epoch_9.pth"]
    fill(store, 4, limit=2)
    assert names(store) == ["best_AP_epoch_1.pth", "epoch_3.pth", "epoch_4.pth", "epoch_9.pth"]
    assert store.latest() == store.storage.path / "epoch_4.pth"


def test_latest_is_of_the_run_that_saved_last_and_of_one_start_if_asked(store: CheckpointStore) -> None:
    fill(store)
    fresh = CheckpointStore(store.storage.path, run="fresh", start="t2")
    fresh.keep_other_runs = False
    fresh.save({"state_dict": {}}, "epoch_1.pth", step=10, group="epoch")
    fresh.drain()
    assert fresh.latest() == store.storage.path / "epoch_1.pth"
    truncate(store.storage.path / "epoch_1.pth")
    # An older run's epoch 3 is no place for this run to go on from.
    assert CheckpointStore(store.storage.path).latest() is None
    assert store.latest(start="s") == store.storage.path / "epoch_3.pth"
    assert store.latest(start="t3") is None


def test_one_deletion_that_fails_ends_nothing(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "epoch_1.pth":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    store.save({"state_dict": {}}, "epoch_2.pth", step=20, group="epoch", limit=1)
    store.save({"state_dict": {}}, "epoch_3.pth", step=30, group="epoch", limit=1)
    store.drain()
    assert "could not be deleted" in caplog.text
    assert names(store) == ["epoch_1.pth", "epoch_3.pth"]


def test_a_write_that_fails_is_reported_and_harms_nothing(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, 1)
    (store.storage.path / ".epoch_2.pth.tmp").mkdir()
    store.save({"state_dict": {}}, "epoch_2.pth", step=20)
    store.drain()
    assert store.failure is not None
    assert "epoch_2.pth could not be written" in store.failure
    assert "(it needs 0.0 MB, " in caplog.text
    assert "MB are free); training goes on" in caplog.text
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_what_cannot_be_pickled_is_reported_too(store: CheckpointStore) -> None:
    fill(store, 1)
    store.save({"state_dict": {}, "hooks": [lambda: None]}, "epoch_2.pth", step=20)
    store.drain()
    assert store.failure is not None
    assert "epoch_2.pth could not be written" in store.failure
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_latest_passes_over_what_training_cannot_go_on_from(store: CheckpointStore) -> None:
    fill(store, 1)
    store.save({"state_dict": {}}, "weights.pth", step=20, resumable=False)
    store.drain()
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_best(store: CheckpointStore) -> None:
    for i, score in enumerate((0.2, 0.9, 0.5)):
        store.save(
            {"state_dict": {}},
            f"best_{i}.pth",
            step=i,
            group="best",
            scores={"AP": score},
            point=False,
            resumable=False,
        )
    store.drain()
    assert store.best("AP") == store.storage.path / "best_1.pth"
    assert store.best("AP", greater=False) == store.storage.path / "best_0.pth"
    truncate(store.storage.path / "best_1.pth")
    assert store.best("AP") == store.storage.path / "best_2.pth"
    assert store.best("mAP") is None
    assert store.latest() is None  # a best model has no optimizer: no run goes on from it


def test_mmengines_work_dir_has_a_pointer_only(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "meta": {"epoch": 3}}, tmp_path / "epoch_3.pth")
    (tmp_path / "last_checkpoint").write_text(f"/somewhere/else/{tmp_path.name}/epoch_3.pth")
    assert CheckpointStore(tmp_path).latest() == tmp_path / "epoch_3.pth"
    truncate(tmp_path / "epoch_3.pth")
    assert CheckpointStore(tmp_path).latest() is None
    assert CheckpointStore(tmp_path / "nothing").latest() is None


def test_milestones_and_a_budget(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(1, 8):
        store.save(
            {"state_dict": {"w": torch.zeros(1000)}}, f"e_{i}.pth", step=i, group="e", limit=2, milestone=i % 3 == 0
        )
    store.drain()
    assert names(store) == ["e_3.pth", "e_5.pth", "e_6.pth", "e_7.pth"]
    size = store.manifests()[0].size
    store.save({"state_dict": {"w": torch.zeros(1000)}}, "e_8.pth", step=8, group="e", budget=3 * size)
    store.drain()
    assert names(store) == ["e_3.pth", "e_6.pth", "e_8.pth"]
    store.save({"state_dict": {"w": torch.zeros(1000)}}, "e_9.pth", step=9, group="e", budget=size - 1)
    store.drain()
    assert names(store) == ["e_9.pth"]
    assert "must stay" in caplog.text


def test_what_a_killed_writer_left_goes_and_other_peoples_files_stay(store: CheckpointStore) -> None:
    fill(store, 1)
    path = store.storage.path
    for name in ("epoch_5.pth", "pretrained.pth", ".epoch_2.pth.tmp"):
        (path / name).write_bytes(b"torn")
    (path / ".epoch_5.pth.begun").write_bytes(b"new")  # ours: renamed, and killed before its manifest
    (path / ".epoch_1.pth.begun").write_bytes(b"")  # killed while it was to be replaced
    CheckpointStore(path).clean_up()
    assert sorted(os.listdir(path)) == ["epoch_1.pth", "epoch_1.pth.json", "last_checkpoint", "pretrained.pth"]


def test_a_write_that_fails_leaves_nothing_and_never_touches_a_file_that_was_there(store: CheckpointStore) -> None:
    torch.save({"state_dict": {}}, store.storage.path / "epoch_3.pth")  # somebody's, without a manifest
    store.save({"state_dict": {}, "hooks": [lambda: None]}, "epoch_3.pth", step=20)
    store.save({"state_dict": {}, "hooks": [lambda: None]}, "epoch_4.pth", step=20)
    store.drain()
    assert os.listdir(store.storage.path) == ["epoch_3.pth"]
    assert list(store.lost) == ["epoch_3.pth", "epoch_4.pth"]
    store.save({"state_dict": {}}, "epoch_4.pth", step=20)
    store.drain()
    assert list(store.lost) == ["epoch_3.pth"]


def test_what_lies_in_an_out_dir_is_found_by_the_pointer(tmp_path: Path) -> None:
    home, out = tmp_path / "work", tmp_path / "big" / "work"
    fill(CheckpointStore(home, run="r", start="s"), 1, point=True)
    assert CheckpointStore(home).latest() == home / "epoch_1.pth"
    fill(CheckpointStore(out, run="r", start="s", pointer_dir=home), 2, point=True)
    assert CheckpointStore(home).latest() == out / "epoch_2.pth"
    assert CheckpointStore(home).latest(start="s") == out / "epoch_2.pth"
    for name in ("epoch_1.pth", "epoch_2.pth"):
        truncate(out / name)
    assert CheckpointStore(home).latest() == home / "epoch_1.pth"


def test_a_kill_while_an_old_one_is_dropped_leaves_nothing_for_good(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 2)
    first, second = store.manifests()
    remove = store.storage.remove

    def killed(name: str) -> None:
        if not name.endswith(".json"):
            raise KeyboardInterrupt
        remove(name)

    monkeypatch.setattr(store.storage, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        store.delete(first)
    monkeypatch.undo()
    assert names(store) == [first.name, second.name]
    store.clean_up()
    assert [name for name in store.storage.names() if name.startswith((".", "epoch_1"))] == []
    assert store.latest() == store.storage.path / second.name


# -- other runs in the same folder ------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, float]:
    """The first weight of each checkpoint below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): float(read_checkpoint(path)["state_dict"]["w"].flatten()[0])
        for path in sorted(folder.rglob("*.pth"))
    }


def of_run(folder: Path, run: str, weight: float, names: tuple[str, ...], **kwargs: Any) -> CheckpointStore:
    store = CheckpointStore(folder, run=run, **kwargs)
    for step, name in enumerate(names, 1):
        state = {"state_dict": {"w": torch.tensor([weight])}, "meta": {"iter": step, "run": run}, "optimizer": {}}
        store.save(state, name, step=step, group="epoch", limit=1)
        store.drain()
        assert store.failure is None
    return store


def test_a_new_run_moves_the_checkpoints_of_another_one_aside(tmp_path: Path) -> None:
    of_run(tmp_path, "a", 1.0, ("epoch_1.pth", "epoch_2.pth"))
    store = of_run(tmp_path, "b", 2.0, ("epoch_1.pth",))
    assert contents(tmp_path) == {"earlier_runs/a/epoch_2.pth": 1.0, "epoch_1.pth": 2.0}
    assert store.latest() == tmp_path / "epoch_1.pth"
    (earlier,) = store.earlier_runs()
    assert earlier.latest() == tmp_path / "earlier_runs" / "a" / "epoch_2.pth"
    assert (tmp_path / "earlier_runs" / "a" / "last_checkpoint").read_text() == "epoch_2.pth"


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_run_is_brought_back_and_the_other_one_moved_aside(tmp_path: Path, kind: str) -> None:
    where: Any = tmp_path if kind == "folder" else f"local://{tmp_path}"
    of_run(where, "a", 1.0, ("epoch_2.pth",))
    of_run(where, "b", 2.0, ("epoch_1.pth",))
    CheckpointStore(where).bring_back("a")
    assert contents(tmp_path) == {"earlier_runs/b/epoch_1.pth": 2.0, "epoch_2.pth": 1.0}
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_2.pth"
    assert str(CheckpointStore(where).latest()).endswith("/epoch_2.pth")
    CheckpointStore(where).bring_back("b")
    assert contents(tmp_path) == {"earlier_runs/a/epoch_2.pth": 1.0, "epoch_1.pth": 2.0}
    CheckpointStore(where).bring_back("b")  # nothing to do
    assert str(CheckpointStore(where).latest(run="b")).endswith("/epoch_1.pth")


def test_other_runs_in_an_out_dir_move_aside_there(tmp_path: Path) -> None:
    home, out = tmp_path / "work", tmp_path / "big" / "work"
    of_run(out, "a", 1.0, ("epoch_1.pth",), pointer_dir=home)
    of_run(out, "b", 2.0, ("epoch_1.pth",), pointer_dir=home)
    assert contents(out) == {"earlier_runs/a/epoch_1.pth": 1.0, "epoch_1.pth": 2.0}
    (earlier,) = CheckpointStore(home).earlier_runs()
    assert earlier.latest() == out / "earlier_runs" / "a" / "epoch_1.pth"
    CheckpointStore(home).bring_back("a")
    assert contents(out) == {"earlier_runs/b/epoch_1.pth": 2.0, "epoch_1.pth": 1.0}
    assert CheckpointStore(home).latest() == out / "epoch_1.pth"
    CheckpointStore(home).bring_back("b")
    assert contents(out) == {"earlier_runs/a/epoch_1.pth": 1.0, "epoch_1.pth": 2.0}


@pytest.mark.parametrize("moves", range(1, 5))
def test_a_kill_while_checkpoints_move_loses_none(tmp_path: Path, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    of_run(tmp_path, "a", 1.0, ("epoch_1.pth",))
    of_run(tmp_path, "b", 2.0, ("epoch_1.pth",))
    move, count = LocalStorage.move, []

    def killed(self: LocalStorage, name: str, target: str) -> None:
        count.append(name)
        if len(count) > moves - 1:
            raise KeyboardInterrupt
        move(self, name, target)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            CheckpointStore(tmp_path).bring_back("a")
    for run, weight in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
        CheckpointStore(tmp_path).bring_back(run)
        latest = CheckpointStore(tmp_path).latest(run=run)
        assert latest == tmp_path / "epoch_1.pth"
        assert contents(tmp_path)["epoch_1.pth"] == weight


def test_a_file_without_a_manifest_is_kept(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.tensor([7.0])}}, tmp_path / "epoch_1.pth")
    of_run(tmp_path, "a", 1.0, ("epoch_1.pth",))
    assert contents(tmp_path) == {"earlier_runs/unknown/epoch_1.pth": 7.0, "epoch_1.pth": 1.0}


# -- damaged manifests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff\xfe", b'{"name": 3}', b'{"name": "epoch_2.pth"}'])
def test_a_damaged_manifest_is_made_anew_from_its_checkpoint(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    of_run(tmp_path, "a", 1.0, ("epoch_2.pth",))
    (tmp_path / "epoch_2.pth.json").write_bytes(text)
    store = CheckpointStore(tmp_path)
    assert store.latest() == tmp_path / "epoch_2.pth"
    (manifest,) = store.manifests()
    assert (manifest.run, manifest.step, manifest.group) == ("a", 1, "epoch")
    assert [record.message.count("is damaged") for record in caplog.records] == [1]
    assert (tmp_path / "epoch_2.pth.json.damaged").read_bytes() == text


def test_a_damaged_manifest_of_a_damaged_checkpoint_makes_it_unusable(tmp_path: Path) -> None:
    of_run(tmp_path, "a", 1.0, ("epoch_2.pth",))
    (tmp_path / "epoch_2.pth.json").write_bytes(b"")
    flip_a_bit(tmp_path / "epoch_2.pth")
    assert CheckpointStore(tmp_path).latest() is None
