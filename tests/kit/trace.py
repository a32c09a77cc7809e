"""Hooks for runs on Ray workers: one writes down what each rank trained on, one kills its process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from raydet3d.hooks import Hook


class WriteSamples(Hook):
    """Writes ``[iteration, sample ids, digest of each augmented input, number of ranks]`` of every step, a file a rank.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ids = [sample.sample_idx for sample in data_batch["data_samples"]]
        digests = [hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for x in data_batch["inputs"]]
        with (self.folder / f"rank{runner.rank}.jsonl").open("a") as file:
            file.write(json.dumps([runner.iter, ids, digests, runner.world_size]) + "\n")


class KillOnce(Hook):
    """Ends this process as ``kill -9`` does, the first time that a rank comes to an iteration.

    Args:
        rank: The rank.
        at: The iteration.
        marker: File that says it has been done.
    """

    def __init__(self, rank: int, at: int, marker: str) -> None:
        self.rank, self.at, self.marker = rank, at, Path(marker)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.rank == self.rank and runner.iter == self.at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def read_steps(folder: Path) -> list[list[tuple[int, str]]]:
    """(sample id, digest) pairs of each global batch, in the order of the permutation."""
    ranks = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.iterdir())]
    steps: dict[int, list[list[tuple[int, str]]]] = {}
    for rank in ranks:
        for iteration, ids, digests, _ in rank:
            steps.setdefault(iteration, []).append(list(zip(ids, digests, strict=True)))
    # Samples are dealt out in turn: the j-th of every rank, then the j+1-th.
    return [[pair for turn in zip(*steps[i], strict=True) for pair in turn] for i in sorted(steps)]
