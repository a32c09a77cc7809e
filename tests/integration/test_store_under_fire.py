"""The store with real kills, a real full disk and real damage: the newest checkpoint can always be read.

What a checkpoint must hold is known from its name, so a torn or mixed one would show.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from raydet3d.checkpoint.load import load_metadata, load_shards
from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.hooks import Hook
from raydet3d.runtime import assemble
from tests.integration.test_resume import same_run
from tests.kit.toy import ToyModel, toy_cfg

KILLS = 50


def save_for_ever(where: str, first: int, done: Connection, sharded: bool) -> None:
    """Save one checkpoint after the other, and tell of each that is in place."""
    store = CheckpointStore(where, run="r")
    store.clean_up()
    mesh = lonely_mesh(Path(where, f"rendezvous-{os.getpid()}")) if sharded else None
    for step in range(first, 10**9):
        weights = torch.full((300_000,), float(step))
        if mesh is not None:
            weights = distribute_tensor(weights, mesh, [Shard(0)])
        state = {"state_dict": {"w": weights}, "meta": {"iter": step, "run": "r"}, "optimizer": {}}
        # Names come again, as those of a run that is begun anew do: then a file is replaced.
        store.save(state, f"iter_{step % 4}.pth", step=step, group="iter", limit=2)
        store.drain()
        done.send(step)


def lonely_mesh(path: Path) -> DeviceMesh:
    """One rank by itself: its tensors are sharded, and its checkpoints are folders."""
    torch_dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    return init_device_mesh("cpu", (1,))


def kill_while_saving(where: str, *, kills: int, seed: int, sharded: bool = False) -> tuple[int, int]:
    """Start savers and kill each at a random moment; what is newest then must be whole.

    Returns:
        Checkpoints saved, and kills that struck in the middle of a write.
    """
    moments, committed, torn = random.Random(seed), 0, 0
    context = get_context("fork")
    for _ in range(kills):
        here, there = context.Pipe(duplex=False)
        saver = context.Process(target=save_for_ever, args=(where, committed + 1, there, sharded))
        saver.start()
        there.close()
        committed = max(committed, here.recv())
        deadline = time.monotonic() + moments.uniform(0, 0.03)
        while time.monotonic() < deadline:
            if here.poll(0.0005):
                committed = max(committed, here.recv())
        saver.kill()
        saver.join()
        assert saver.exitcode == -signal.SIGKILL
        try:
            while here.poll():
                committed = max(committed, here.recv())
        except EOFError:
            pass
        store = CheckpointStore(where)
        torn += any(name.startswith(".") for name in store.storage.names())
        newest = store.latest()
        assert newest is not None
        state = load_shards(load_metadata(newest), newest, {})
        step = state["meta"]["iter"]
        assert step >= committed
        assert bool((state["state_dict"]["w"] == step).all())
        committed = max(committed, step)
    return committed, torn


@pytest.mark.parametrize("kind", ["folder", "bucket", pytest.param("shards", marks=pytest.mark.slow)])
def test_kill_dash_nine_while_checkpoints_are_written(kind: str, tmp_path: Path) -> None:
    where = f"local://{tmp_path}" if kind == "bucket" else str(tmp_path)
    kills = {"folder": KILLS, "bucket": 10, "shards": 20}[kind]
    committed, torn = kill_while_saving(where, kills=kills, seed=1, sharded=kind == "shards")
    assert committed >= kills
    if kind != "bucket":
        assert torn > 5, "the kills came between the writes, so this test has shown nothing"
    CheckpointStore(where).clean_up()
    left = sorted(name for name in os.listdir(tmp_path) if not name.startswith("rendezvous"))
    files = [name for name in left if name.endswith(".pth")]
    assert left == sorted([*files, *(f"{name}.json" for name in files), "last_checkpoint"])
    assert len(files) <= 3


def train(folder: Path, resume: bool) -> None:
    every = {"type": "CheckpointHook", "interval": 1, "by_epoch": False, "max_keep_ckpts": 3}
    assemble(toy_cfg(folder, default_hooks__checkpoint=every, log_level="ERROR"), resume=resume).train()


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    train(tmp_path / "whole", False)
    moments, kills = random.Random(2), 0
    for _ in range(200):
        process = get_context("fork").Process(target=train, args=(tmp_path / "part", True))
        process.start()
        process.join(moments.uniform(0.15, 0.6))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    assert process.exitcode == 0
    assert kills >= 3
    same_run(tmp_path / "whole" / "iter_36.pth", tmp_path / "part" / "iter_36.pth")
    assert not list((tmp_path / "part").glob(".*.tmp"))
    # A kill after the last save, before the oldest is dropped, leaves one more: nothing is saved after it.
    left = sorted(path.stem for path in (tmp_path / "part").glob("iter_*.pth"))
    assert left[-3:] == ["iter_34", "iter_35", "iter_36"]
    assert len(left) <= 4


# -- damage -----------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(3).randrange(len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_newest_costs_its_steps_and_one_line(
    tmp_path: Path, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assemble(toy_cfg(tmp_path, train_cfg={"by_epoch": True, "max_epochs": 2, "val_interval": 1})).train()
    damage(tmp_path / "epoch_2.pth")
    capsys.readouterr()
    runner = assemble(toy_cfg(tmp_path), resume=True)
    assert runner.train()["iter"] == 36
    told = [line for line in capsys.readouterr().out.splitlines() if "epoch_2.pth" in line and "WARNING" in line]
    assert len(told) == 1
    assert "trying the one before" in told[0]
    assert CheckpointStore(tmp_path).latest() == tmp_path / "epoch_3.pth"


# -- a full disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = tmp_path / "small"
    path.mkdir()
    if libc.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    yield path
    logging.shutdown()
    libc.umount2(str(path).encode(), 2)


class Fill(Hook):
    """Takes all that is left of the disk after the first epoch, and gives it back after the second.

    Args:
        ballast: File that takes it.
    """

    priority = "LOWEST"

    def __init__(self, ballast: Path, back: bool = True) -> None:
        self.ballast, self.back = ballast, back

    def after_train_epoch(self, runner: Any) -> None:
        runner.store.drain()
        if runner.epoch == 0:
            with self.ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(1 << 14)):
                        pass
                except OSError:
                    pass
        elif self.back:
            self.ballast.unlink(missing_ok=True)


def visual() -> dict[str, Any]:
    kinds = ("LocalVisBackend", "TensorboardVisBackend")
    return {"type": "Visualizer", "vis_backends": [{"type": kind} for kind in kinds]}


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = assemble(
        toy_cfg(small_disk / "run", visualizer=visual()), extra_hooks=[Fill(small_disk / "ballast", back=True)]
    )
    result = runner.train()
    assert result["iter"] == 36
    assert list(result["not_kept"]) == ["epoch_2.pth"]
    out, err = capfd.readouterr()
    assert "checkpoint epoch_2.pth could not be written: No space left on device (it needs 0.0 MB, 0.0 MB" in out
    assert "training continues, earlier checkpoints are untouched" in out
    assert "No space left on device" in result["not_kept"]["epoch_2.pth"]
    assert "Traceback" not in out + err
    read_checkpoint(small_disk / "run" / "epoch_1.pth")
    assert CheckpointStore(small_disk / "run").latest() == small_disk / "run" / "epoch_3.pth"
    assert not list((small_disk / "run").glob(".*"))


def test_a_disk_that_stays_full_leaves_the_previous_checkpoint(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = assemble(
        toy_cfg(small_disk / "run", visualizer=visual()), extra_hooks=[Fill(small_disk / "ballast", back=False)]
    )
    result = runner.train()
    assert result["iter"] == 36
    assert list(result["not_kept"]) == ["epoch_2.pth", "epoch_3.pth"]
    assert result["last_checkpoint"] == str(small_disk / "run" / "epoch_1.pth")
    assert CheckpointStore(small_disk / "run").latest() == small_disk / "run" / "epoch_1.pth"
    assert "Traceback" not in "".join(capfd.readouterr())


def big_for_a_limit(folder: Path, sends: Connection) -> None:
    """A run in a process whose files may have 20,000 bytes from its second epoch on."""

    class Limit(Hook):
        priority = "LOWEST"

        def after_train_epoch(self, runner: Any) -> None:
            runner.store.drain()
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    cfg = toy_cfg(folder, model={"type": ToyModel, "norm": True}, log_level="CRITICAL")
    runner = assemble(cfg, extra_hooks=[Limit()])
    sends.send(runner.train())


def test_a_limit_on_files_is_a_full_disk_too(tmp_path: Path) -> None:
    here, there = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=big_for_a_limit, args=(tmp_path, there))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    result = here.recv()
    assert (result["iter"], list(result["not_kept"])) == (36, ["epoch_2.pth", "epoch_3.pth"])
    assert "File too large" in result["not_kept"]["epoch_3.pth"]
    assert CheckpointStore(tmp_path).latest() == tmp_path / "epoch_1.pth"


# -- a work dir behind a URI ------------------------------------------------------------------------------------


def test_a_run_whose_work_dir_is_a_uri_is_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    best = {"type": "CheckpointHook", "interval": 1, "save_best": "toy/AP", "max_keep_ckpts": 2}
    assemble(toy_cfg(tmp_path / "plain", default_hooks__checkpoint=best)).train()
    uri = f"local://{tmp_path}/bucket/run"
    cfg = toy_cfg(uri, default_hooks__checkpoint=best, visualizer=visual())
    result = assemble(cfg).train()
    assert result["last_checkpoint"] == f"{uri}/epoch_3.pth"
    assert result["best_checkpoint"] == f"{uri}/best_toy_AP_epoch_3.pth"
    there = tmp_path / "bucket" / "run"
    same_run(tmp_path / "plain" / "epoch_3.pth", there / "epoch_3.pth")
    log = next(there.glob("*/*.log")).read_text()
    assert log.rstrip().endswith("epoch 3, iteration 36")
    assert (there / "scalars.json").read_text().count("\n") > 3
    assert list(there.glob("*/vis_data/events.*"))
    assert not list((tmp_path / "scratch").rglob("*.pth"))

    # Another machine, which has seen nothing of it, goes on.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    longer = {"by_epoch": True, "max_epochs": 4, "val_interval": 1}
    again = assemble(toy_cfg(uri, default_hooks__checkpoint=best, train_cfg=longer), resume=True).train()
    assert again["iter"] == 48
    assert sorted(path.name for path in there.glob("epoch_*.pth")) == ["epoch_3.pth", "epoch_4.pth"]
    lines = (there / "scalars.json").read_text().splitlines()
    assert '"iter": 12' in lines[2]
    assert '"iter": 48' in lines[-1]
