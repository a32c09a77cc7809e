"""Finding checkpoints: newest, best, by run, by the pointer, with damaged ones skipped."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.checkpoint.store import CheckpointStore
from tests.kit.checkpoints import fill, flip_a_bit, truncate


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, run="r", start="s")


@pytest.mark.parametrize(
    ("damage", "word"),
    [(truncate, "has .* bytes, its manifest says"), (flip_a_bit, "is damaged"), (Path.unlink, "cannot be read")],
)
def test_damaged_newest_is_logged_once_and_skipped(
    store: CheckpointStore, damage: Any, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store)
    damage(store.storage.path / "epoch_3.pth")
    with caplog.at_level(logging.WARNING):
        assert store.latest() == store.storage.path / "epoch_2.pth"
    (record,) = caplog.records
    assert "epoch_3.pth" in record.getMessage()
    assert record.getMessage().count("\n") == 0
    assert re.search(word, record.getMessage())


def test_file_without_manifest_is_no_checkpoint(store: CheckpointStore) -> None:
    fill(store)
    (store.storage.path / "epoch_3.pth.json").unlink()
    assert store.latest() == store.storage.path / "epoch_2.pth"
    (store.storage.path / "epoch_2.pth.json").write_text("{torn")
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_latest_is_of_the_newest_run_or_of_a_given_start(store: CheckpointStore) -> None:
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


def test_latest_skips_checkpoints_without_optimizer_state(store: CheckpointStore) -> None:
    fill(store, 1)
    store.save({"state_dict": {}}, "weights.pth", step=20, resumable=False)
    store.drain()
    assert store.latest() == store.storage.path / "epoch_1.pth"


def test_best_by_score_skips_damaged_checkpoints(store: CheckpointStore) -> None:
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


def test_work_dir_of_mmengine_without_manifests(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "meta": {"epoch": 3}}, tmp_path / "epoch_3.pth")
    (tmp_path / "last_checkpoint").write_text(f"/somewhere/else/{tmp_path.name}/epoch_3.pth")
    assert CheckpointStore(tmp_path).latest() == tmp_path / "epoch_3.pth"
    truncate(tmp_path / "epoch_3.pth")
    assert CheckpointStore(tmp_path).latest() is None
    assert CheckpointStore(tmp_path / "nothing").latest() is None


def test_pointer_leads_to_checkpoints_in_an_out_dir(tmp_path: Path) -> None:
    home, out = tmp_path / "work", tmp_path / "big" / "work"
    fill(CheckpointStore(home, run="r", start="s"), 1, point=True)
    assert CheckpointStore(home).latest() == home / "epoch_1.pth"
    fill(CheckpointStore(out, run="r", start="s", pointer_dir=home), 2, point=True)
    assert CheckpointStore(home).latest() == out / "epoch_2.pth"
    assert CheckpointStore(home).latest(start="s") == out / "epoch_2.pth"
    for name in ("epoch_1.pth", "epoch_2.pth"):
        truncate(out / name)
    assert CheckpointStore(home).latest() == home / "epoch_1.pth"
