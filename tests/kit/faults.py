"""Hooks that do what goes wrong on clusters: processes that are killed, that hang, that are slow."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from raydet3d.hooks import Hook


class Slow(Hook):
    """Makes iterations last, so that there is time to disturb them.

    Args:
        seconds: How long.
        rank: On this rank only; on all by default.
        begin: From this iteration on.
    """

    def __init__(self, seconds: float, rank: int | None = None, begin: int = 0) -> None:
        self.seconds, self.rank, self.begin = seconds, rank, begin

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.rank in (None, runner.rank) and runner.iter >= self.begin:
            time.sleep(self.seconds)

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        time.sleep(self.seconds)


class Hang(Hook):
    """A rank never comes to the gradient exchange of an iteration, the first time.

    Args:
        rank: Which.
        at: The iteration.
        marker: File that says it has been done.
    """

    def __init__(self, rank: int, at: int, marker: str) -> None:
        self.rank, self.at, self.marker = rank, at, Path(marker)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.rank == self.rank and runner.iter == self.at and not self.marker.exists():
            self.marker.touch()
            self.wait_for_godot()

    def wait_for_godot(self) -> None:
        threading.Event().wait()


class KillAt(Hook):
    """Kills this process as ``kill -9`` does, at each of some iterations once, within the step or after it.

    Args:
        rank: Which rank dies.
        at: Iterations, one death each.
        folder: Where deaths are noted.
    """

    priority = "LOWEST"

    def __init__(self, rank: int, at: Sequence[int], folder: str) -> None:
        self.rank, self.at, self.folder = rank, list(at), Path(folder)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.rank != self.rank or runner.iter not in self.at:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.folder / f"{self.at.index(runner.iter)}-{runner.iter}"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class PoisonAt(Hook):
    """Makes the loss of some iterations NaN, whichever start of the run they fall into; of a `ToyModel`.

    Args:
        at: Iterations, counted from 1.
    """

    def __init__(self, at: Sequence[int]) -> None:
        self.at = set(at)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        model = getattr(runner.model, "module", runner.model)
        if runner.iter + 1 in self.at:
            model.poison.add(model.calls + 1)


class CallAt(Hook):
    """Calls what a test has put into `actions` before an iteration; the config does not change by it."""

    actions: ClassVar[dict[int, Callable[[Any], None]]] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter in self.actions:
            self.actions[runner.iter](runner)


class Touch(Hook):
    """Makes a file once the first iteration is done.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.rank == 0:
            self.path.touch()
