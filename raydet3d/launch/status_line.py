"""Terminal of the driver: the workers' lines as they come, and below them a panel with the state of the run."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from raydet3d.progress_bar import LiveLine
from raydet3d.run_status import RunStatus


class StatusTerminal:
    """A terminal that shows the run's state below the lines that pass, read from these lines.

    Args:
        terminal: The terminal.
        max_epochs: Epochs of the run; None where it counts iterations.
        name: Name of the run.
    """

    def __init__(self, terminal: TextIO, max_epochs: int | None, name: str = "") -> None:
        self._terminal = terminal
        self._status = RunStatus(name=name, max_epochs=max_epochs)
        self._has_status = False
        self._line = LiveLine(terminal)
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write above the panel; it comes back once the text has ended its line."""
        with self._lock:
            for line in text.splitlines():
                self._status.read_log_line(line)
            self._has_status = self._has_status or self._status.iteration is not None
            self._line.clear()
            self._terminal.write(text)
            if self._has_status and text.endswith("\n"):
                self._line.show(self._status.panel(shutil.get_terminal_size().columns))
            self._terminal.flush()
        return len(text)

    def clear(self) -> None:
        """Remove the panel."""
        with self._lock:
            self._line.clear()
            self._has_status = False
            self._status.iteration = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


@contextmanager
def status_line(train_cfg: Mapping[str, Any] | None, name: str = "") -> Iterator[None]:
    """Show the run's state for as long as the `with` block, where there is a terminal.

    Args:
        train_cfg: The config's `train_cfg`, for the number of epochs.
        name: Name of the run.
    """
    if not sys.stdout.isatty():
        yield
        return
    before = sys.stdout
    epochs = (train_cfg or {}).get("max_epochs")
    terminal = StatusTerminal(before, int(epochs) if epochs else None, name)
    sys.stdout = terminal
    try:
        yield
    finally:
        sys.stdout = before
        terminal.clear()
