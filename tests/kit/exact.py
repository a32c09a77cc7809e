"""Compare the checkpoints of two runs, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def same(a: Any, b: Any, where: str = "") -> None:
    """Fail at the first place where two nested states differ in a single bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def same_run(path: Path, other: Path) -> None:
    """Compare all that makes a run; times and memory are the machine's."""
    a, b = load(path), load(other)
    for key in ("state_dict", "optimizer", "param_schedulers", "progress", "rng", "sampler", "hooks"):
        same(a[key], b[key], key)
    for name, series in a["history"]["scalars"].items():
        if "time" not in name:
            same(series, b["history"]["scalars"][name], name)
