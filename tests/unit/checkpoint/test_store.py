"""Saving and deleting: limits, failed writes, and what killed writers leave."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.checkpoint.store import CheckpointStore
from tests.kit.checkpoints import fill


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, run="r", start="s")


def names(store: CheckpointStore) -> list[str]:
    return [name for name in store.storage.names() if name.endswith(".pth")]


def test_save_and_read_back(store: CheckpointStore) -> None:
    fill(store, scores={"AP": 0.5})
    assert store.latest() == store.storage.path / "epoch_3.pth"
    assert read_checkpoint(store.storage.path / "epoch_3.pth")["state_dict"]["w"][0, 0] == 3
    assert (store.storage.path / "last_checkpoint").read_text() == "epoch_3.pth"  # no absolute path: folders move
    manifest = json.loads((store.storage.path / "epoch_2.pth.json").read_text())
    assert (manifest["step"], manifest["scores"], manifest["run"]) == (20, {"AP": 0.5}, "r")
    assert manifest["size"] == (store.storage.path / "epoch_2.pth").stat().st_size
    assert not [name for name in store.storage.names() if name.endswith(".tmp")]


def test_save_copies_the_state_before_it_returns(store: CheckpointStore) -> None:
    weight = torch.zeros(1000, 1000)
    store.save({"state_dict": {"w": weight}}, "a.pth", step=1)
    weight += 1  # training goes on while the thread writes
    store.drain()
    assert read_checkpoint(store.storage.path / "a.pth")["state_dict"]["w"].abs().max() == 0


def test_leftovers_of_a_killed_writer_are_ignored(store: CheckpointStore) -> None:
    fill(store)
    # What a kill can leave: a temporary file; a file without its manifest; and when one is replaced by one of its
    # name, the new file under a manifest that names both.
    store.storage.prepare("epoch_4.pth", lambda file: file.write(b"half"))
    assert store.latest() == store.storage.path / "epoch_3.pth"
    store.clean_up()
    assert ".epoch_4.pth.tmp" not in store.storage.names()
    shutil.copy(store.storage.path / "epoch_1.pth", store.storage.path / "epoch_4.pth")
    assert store.latest() == store.storage.path / "epoch_3.pth"


@pytest.mark.parametrize("stop", range(1, 12))
def test_latest_exists_after_a_failure_at_any_step(tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_limit_counts_a_group_of_this_run(store: CheckpointStore) -> None:
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


def test_failed_deletion_is_logged_and_saving_continues(
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


def test_failed_write_is_reported_and_earlier_checkpoints_stay(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, 1)
    (store.storage.path / ".epoch_2.pth.tmp").mkdir()
    store.save({"state_dict": {}}, "epoch_2.pth", step=20)
    store.drain()
    assert store.failure is not None
    assert "epoch_2.pth could not be written" in store.failure
    assert "(it needs 0.0 MB, " in caplog.text
    assert "MB are free); training continues" in caplog.text
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_unpicklable_state_is_a_failed_write(store: CheckpointStore) -> None:
    fill(store, 1)
    store.save({"state_dict": {}, "hooks": [lambda: None]}, "epoch_2.pth", step=20)
    store.drain()
    assert store.failure is not None
    assert "epoch_2.pth could not be written" in store.failure
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_milestones_and_budget_of_bytes(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
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


def test_clean_up_removes_only_files_of_killed_writers(store: CheckpointStore) -> None:
    fill(store, 1)
    path = store.storage.path
    for name in ("epoch_5.pth", "pretrained.pth", ".epoch_2.pth.tmp"):
        (path / name).write_bytes(b"torn")
    (path / ".epoch_5.pth.begun").write_bytes(b"new")  # ours: renamed, and killed before its manifest
    (path / ".epoch_1.pth.begun").write_bytes(b"")  # killed while it was to be replaced
    CheckpointStore(path).clean_up()
    assert sorted(os.listdir(path)) == ["epoch_1.pth", "epoch_1.pth.json", "last_checkpoint", "pretrained.pth"]


def test_failed_write_leaves_files_without_manifest_alone(store: CheckpointStore) -> None:
    torch.save({"state_dict": {}}, store.storage.path / "epoch_3.pth")  # somebody's, without a manifest
    store.save({"state_dict": {}, "hooks": [lambda: None]}, "epoch_3.pth", step=20)
    store.save({"state_dict": {}, "hooks": [lambda: None]}, "epoch_4.pth", step=20)
    store.drain()
    assert os.listdir(store.storage.path) == ["epoch_3.pth"]
    assert list(store.lost) == ["epoch_3.pth", "epoch_4.pth"]
    store.save({"state_dict": {}}, "epoch_4.pth", step=20)
    store.drain()
    assert list(store.lost) == ["epoch_3.pth"]


def test_clean_up_completes_an_interrupted_deletion(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
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
