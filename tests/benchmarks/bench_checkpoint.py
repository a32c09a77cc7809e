"""How long a checkpoint stops the training: the store's save, against copying the state in memory and ``torch.save``.

    python tests/benchmarks/bench_checkpoint.py [--mb 400] [--repeats 7]

The three take turns on the same state. ``copy_fresh`` clones every tensor into new memory, ``copy_kept`` overwrites
copies that are there. ``next_step`` is what 40 matrix products take while the writer is at work, over what they take
alone. Prints JSON, times in milliseconds, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydet3d.checkpoint.store import CheckpointStore


def timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - began)


def work() -> None:
    a = torch.ones(400, 400)
    for _ in range(40):
        torch.mm(a, a)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # A third weights, two thirds moments, as with AdamW, in tensors of 0.5 MB.
    tensors = {f"{i}": torch.randn(125_000) for i in range(2 * args.mb)}
    state = {"state_dict": tensors, "meta": {}}
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    times: dict[str, list[float]] = {}

    def note(name: str, milliseconds: float) -> None:
        times.setdefault(name, []).append(milliseconds)

    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        store.save(state, "first.pth", step=0)
        store.drain()
        for i in range(args.repeats):
            note("copy_fresh", timed(lambda: {name: tensor.clone() for name, tensor in tensors.items()}))
            note("copy_kept", timed(lambda: [kept[name].copy_(tensor) for name, tensor in tensors.items()]))
            alone = timed(work)
            note("save", timed(lambda: store.save(state, f"{i % 2}.pth", step=i)))  # noqa: B023 - called at once
            note("next_step", timed(work) / alone)
            note("written", timed(store.drain))
            note("torch_save", timed(lambda: torch.save(state, Path(folder) / "plain.pt")))
    medians = {name: round(statistics.median(values), 2) for name, values in times.items()}
    print(json.dumps({"mb": args.mb, **medians, "save_over_copy": round(medians["save"] / medians["copy_fresh"], 2)}))


if __name__ == "__main__":
    main()
