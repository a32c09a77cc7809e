"""Checkpoints of other runs in the same folder move aside, and back on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.checkpoint.earlier_runs import bring_back, find_earlier_runs
from raydet3d.checkpoint.storage import LocalStorage
from raydet3d.checkpoint.store import CheckpointStore
from tests.kit.checkpoints import save_run, weights_by_path


def test_first_save_moves_checkpoints_of_other_runs(tmp_path: Path) -> None:
    save_run(tmp_path, "a", 1.0, ("epoch_1.pth", "epoch_2.pth"))
    store = save_run(tmp_path, "b", 2.0, ("epoch_1.pth",))
    assert weights_by_path(tmp_path) == {"earlier_runs/a/epoch_2.pth": 1.0, "epoch_1.pth": 2.0}
    assert store.latest() == tmp_path / "epoch_1.pth"
    (earlier,) = find_earlier_runs(store)
    assert earlier.latest() == tmp_path / "earlier_runs" / "a" / "epoch_2.pth"
    assert (tmp_path / "earlier_runs" / "a" / "last_checkpoint").read_text() == "epoch_2.pth"


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_bring_back_swaps_two_runs(tmp_path: Path, kind: str) -> None:
    where: Any = tmp_path if kind == "folder" else f"local://{tmp_path}"
    save_run(where, "a", 1.0, ("epoch_2.pth",))
    save_run(where, "b", 2.0, ("epoch_1.pth",))
    bring_back(CheckpointStore(where), "a")
    assert weights_by_path(tmp_path) == {"earlier_runs/b/epoch_1.pth": 2.0, "epoch_2.pth": 1.0}
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_2.pth"
    assert str(CheckpointStore(where).latest()).endswith("/epoch_2.pth")
    bring_back(CheckpointStore(where), "b")
    assert weights_by_path(tmp_path) == {"earlier_runs/a/epoch_2.pth": 1.0, "epoch_1.pth": 2.0}
    bring_back(CheckpointStore(where), "b")  # nothing to do
    assert str(CheckpointStore(where).latest(run="b")).endswith("/epoch_1.pth")


def test_other_runs_in_an_out_dir_move_within_it(tmp_path: Path) -> None:
    home, out = tmp_path / "work", tmp_path / "big" / "work"
    save_run(out, "a", 1.0, ("epoch_1.pth",), pointer_dir=home)
    save_run(out, "b", 2.0, ("epoch_1.pth",), pointer_dir=home)
    assert weights_by_path(out) == {"earlier_runs/a/epoch_1.pth": 1.0, "epoch_1.pth": 2.0}
    (earlier,) = find_earlier_runs(CheckpointStore(home))
    assert earlier.latest() == out / "earlier_runs" / "a" / "epoch_1.pth"
    bring_back(CheckpointStore(home), "a")
    assert weights_by_path(out) == {"earlier_runs/b/epoch_1.pth": 2.0, "epoch_1.pth": 1.0}
    assert CheckpointStore(home).latest() == out / "epoch_1.pth"
    bring_back(CheckpointStore(home), "b")
    assert weights_by_path(out) == {"earlier_runs/a/epoch_1.pth": 1.0, "epoch_1.pth": 2.0}


@pytest.mark.parametrize("moves", range(1, 5))
def test_interrupted_moves_are_completed(tmp_path: Path, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run(tmp_path, "a", 1.0, ("epoch_1.pth",))
    save_run(tmp_path, "b", 2.0, ("epoch_1.pth",))
    move, count = LocalStorage.move, []

    def killed(self: LocalStorage, name: str, target: str) -> None:
        count.append(name)
        if len(count) > moves - 1:
            raise KeyboardInterrupt
        move(self, name, target)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            bring_back(CheckpointStore(tmp_path), "a")
    for run, weight in (("a", 1.0), ("b", 2.0), ("a", 1.0)):
        bring_back(CheckpointStore(tmp_path), run)
        latest = CheckpointStore(tmp_path).latest(run=run)
        assert latest == tmp_path / "epoch_1.pth"
        assert weights_by_path(tmp_path)["epoch_1.pth"] == weight


def test_file_without_manifest_is_not_overwritten(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.tensor([7.0])}}, tmp_path / "epoch_1.pth")
    save_run(tmp_path, "a", 1.0, ("epoch_1.pth",))
    assert weights_by_path(tmp_path) == {"earlier_runs/unknown/epoch_1.pth": 7.0, "epoch_1.pth": 1.0}
