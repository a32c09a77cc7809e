"""The state of a run, read from its files while it is at work."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from raydet3d.errors import InputError
from raydet3d.reports.live_status import StatusReader
from raydet3d.runtime import assemble
from tests.kit.toy import toy_cfg

START = {
    "from": 0, "redone": 0, "workers": 2, "why": "", "run": "r", "max_iters": 100, "max_epochs": 4, "batch_size": 8,
}  # fmt: skip
LINE = {
    "lr": 0.1,
    "loss": 2.0,
    "loss_cls": 1.5,
    "time": 0.5,
    "data_time": 0.1,
    "memory": 300,
    "epoch": 1,
    "mode": "train",
    "iter": 20,
}


def write(folder: Path, *starts: dict[str, object], reached: int = 27) -> None:
    (folder / "starts.jsonl").write_text("".join(f"{json.dumps(start)}\n" for start in starts))
    (folder / "scalars.json").write_text(json.dumps(LINE) + "\n" + '{"torn')
    (folder / ".reached").write_bytes(b"%012d\n" % reached)


def test_the_state_of_a_run_at_work(tmp_path: Path) -> None:
    write(tmp_path, START)
    status = StatusReader(tmp_path).read()
    assert (status.state, status.iteration, status.max_iters) == ("running", 27, 100)
    assert (status.epoch, status.max_epochs) == (2, 4)
    assert status.samples_per_s == 16
    assert status.data_share == pytest.approx(0.2)
    assert status.eta_s == pytest.approx(0.5 * 73)
    assert status.losses == {"loss": 2.0, "loss_cls": 1.5}
    assert (status.lr, status.workers, status.memory_mib, status.restarts) == (0.1, 2, 300, 0)
    assert status.updated_s is not None
    assert status.updated_s < 60


def test_a_run_without_a_sign_of_life_is_stalled_and_an_ended_one_finished(tmp_path: Path) -> None:
    write(tmp_path, START)
    old = time.time() - 4000
    for path in tmp_path.iterdir():
        os.utime(path, (old, old))
    reader = StatusReader(tmp_path)
    assert reader.read().state == "stopped or stalled"
    end = {"finished": True, "iter": 100, "saved": 100, "result": {}, "run": "r"}
    write(tmp_path, START, {**START, "from": 30}, end, reached=100)
    status = reader.read()
    assert (status.state, status.restarts, status.iteration) == ("finished", 1, 100)


def test_the_state_behind_a_uri_and_with_checkpoints(tmp_path: Path) -> None:
    best = {"type": "CheckpointHook", "interval": 1, "save_best": "toy/AP"}
    result = assemble(toy_cfg(tmp_path, default_hooks__checkpoint=best)).train()
    for place in (tmp_path, tmp_path.as_uri()):
        status = StatusReader(place).read()
        assert status.best == {"toy/AP": result["best_score"]}
        assert status.checkpoint == "epoch_3.pth"
        assert (status.max_epochs, status.iteration) == (3, 34)


def test_the_state_in_an_object_store(tmp_path: Path) -> None:
    import fsspec

    write(tmp_path, START)
    files = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        files.pipe(f"/watched/{path.name}", path.read_bytes())
    status = StatusReader("memory://watched").read()
    assert (status.iteration, status.workers) == (27, 2)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run here yet"):
        StatusReader(tmp_path).read()
