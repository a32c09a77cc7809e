"""Commands in a process group of their own, which tests send signals to as a terminal or a batch system does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.kit.runs import PATIENCE, ROOT


class CommandGroup:
    """A running command that leads a session and process group.

    Args:
        command: Program and arguments; `-m` alone in front stands for this interpreter.
        folder: Where it runs; its output is written there.
        env: Further environment variables.
    """

    def __init__(self, command: Sequence[object], folder: Path, env: Mapping[str, str] | None = None) -> None:
        words = [str(word) for word in command]
        if words[0] == "-m":
            words = [sys.executable, *words]
        self.output = folder / f"group{len(list(folder.glob('group*.txt')))}.txt"
        given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env={**given, **(env or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=restore_interrupt,
            )

    def text(self) -> str:
        """Its output so far."""
        return self.output.read_text()

    def until(self, is_ready: Callable[[], Any], timeout_s: float = 90) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while not is_ready():
            assert self.process.poll() is None, f"exited with {self.process.returncode}:\n{self.text()[-4000:]}"
            assert time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.02)

    def signal_group(self, number: signal.Signals) -> None:
        """Send every process of the group a signal."""
        os.killpg(self.process.pid, number)

    def wait(self, timeout_s: float = 60) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(timeout_s * PATIENCE)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(f"did not exit in {timeout_s} s:\n{self.text()[-4000:]}") from None

    def members(self) -> list[int]:
        """Processes of the group other than the command itself."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid and int(folder.name) != self.process.pid and fields[0] != "Z":
                    found.append(int(folder.name))
        return found

    def close(self) -> None:
        """Kill what is left of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def restore_interrupt() -> None:
    """A shell's background jobs ignore SIGINT, and what they start inherits it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
