"""Checkpoints of toy runs, and damage to their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.checkpoint.store import CheckpointStore


def weights_by_path(folder: Path) -> dict[str, float]:
    """The first weight of each checkpoint below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): float(read_checkpoint(path)["state_dict"]["w"].flatten()[0])
        for path in sorted(folder.rglob("*.pth"))
    }


def save_run(folder: Path, run: str, weight: float, names: tuple[str, ...], **kwargs: Any) -> CheckpointStore:
    store = CheckpointStore(folder, run=run, **kwargs)
    for step, name in enumerate(names, 1):
        state = {"state_dict": {"w": torch.tensor([weight])}, "meta": {"iter": step, "run": run}, "optimizer": {}}
        store.save(state, name, step=step, group="epoch", limit=1)
        store.drain()
        assert store.failure is None
    return store


def fill(store: CheckpointStore, count: int = 3, **kwargs: Any) -> None:
    for i in range(1, count + 1):
        state = {"state_dict": {"w": torch.full((50, 50), float(i))}, "meta": {"seed": 7}}
        store.save(state, f"epoch_{i}.pth", step=10 * i, group="epoch", **kwargs)
    store.drain()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
