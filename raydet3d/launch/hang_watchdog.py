"""Hang watchdog: end a run without progress, with every rank's Python stack in a file, so that it is tried again.

A rank that never reaches the all-reduce leaves the others waiting for it, each in its own process. So each process
watches its own progress: no other process is asked, and no network has to work. The stack is written by a thread of C
(`faulthandler`), which also sees a rank that holds the interpreter.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from raydet3d.hooks.base import Hook

if TYPE_CHECKING:
    from raydet3d.hooks.context import RunContext

FOLDER = "stacks"
EXIT = 71  # an exit code of our own: the driver looks for the stacks then
LONGEST = 4000  # characters of a rank's stack in the log; the file has all


class HangWatchdogHook(Hook):
    """Ends the process after too long without progress: no iteration, no validation batch, no epoch.

    Every rank's stack is written before the first of them ends.

    Args:
        timeout_s: Seconds without progress.
    """

    priority = "HIGHEST"

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._progressed = self._armed = 0.0
        self._file: FileIO | None = None
        self._path: Path | None = None
        self._over = threading.Event()

    def before_run(self, runner: RunContext) -> None:
        """Start the watchdog."""
        self._path = runner.log_dir / FOLDER / f"rank{runner.rank}.txt"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = FileIO(self._path, "a")
        self._alone = runner.world_size == 1
        self._touch()
        if not self._alone:
            threading.Thread(target=self._watch, args=(runner.rank,), name="hang-watch", daemon=True).start()

    def _touch(self) -> None:
        self._progressed = now = time.monotonic()
        # Setting the alarm anew starts a thread, so not in every iteration. It goes off between 0.7 and 0.8 of the
        # time without progress; the process ends at 0.95, when the other ranks' stacks are written too. A rank alone
        # waits for no other stack: it ends with its alarm, between 1.0 and 1.1.
        if self._file is not None and now - self._armed > self.timeout_s / 10:
            after = (1.1 if self._alone else 0.8) * self.timeout_s
            faulthandler.dump_traceback_later(after, exit=self._alone, file=self._file.fileno())
            self._armed = now

    def _watch(self, rank: int) -> None:
        pause = min(1.0, self.timeout_s / 50)
        while not self._over.wait(pause):
            if time.monotonic() - self._progressed > 0.95 * self.timeout_s:
                print(f"rank {rank} made no progress for {self.timeout_s:g} s: it ends", file=sys.stderr, flush=True)
                os._exit(EXIT)

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        if self._file is not None and self._path is not None:
            self._file.close()
            self._file = None
            if self._path.stat().st_size == 0:
                self._path.unlink()
                with suppress(OSError):  # another rank's is in it still, or was the last and has done it
                    self._path.parent.rmdir()

    def _progress(self, *args: object, **kwargs: object) -> None:
        """Count a stage as progress: an iteration, an epoch, computed metrics, a collected checkpoint, the end."""
        self._touch()

    _before_epoch = _after_epoch = _after_iter = _progress
    after_val = before_save_checkpoint = after_run = _progress


def read_stacks(log_dir: Path, *, since: float) -> list[str]:
    """Read the stacks that hanging ranks have written.

    Args:
        log_dir: Folder of the start.
        since: Time (of the epoch, in seconds) before which files are of an earlier try.

    Returns:
        One text a rank: its name, and the stack of the thread that trains.
    """
    out = []
    for path in sorted((log_dir / FOLDER).glob("rank*.txt"), key=lambda path: int(path.stem.removeprefix("rank"))):
        if path.stat().st_mtime >= since and path.stat().st_size:
            text = path.read_text(encoding="utf-8", errors="replace")
            last = text[text.rfind("Timeout (") :]
            threads = last.split("\n\n")
            training = [thread for thread in threads if "raydet3d/runtime/" in thread] or threads
            out.append(f"{path.stem}:\n" + "\n\n".join(training)[:LONGEST].rstrip())
    return out
