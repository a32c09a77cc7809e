"""Terminal of the driver: the workers' lines as they come, and below them one line with the progress of the run."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from raydet3d.progress_bar import LiveLine, draw_bar

LINE = re.compile(
    r"(?:Epoch\(train\)\s+\[ *(?P<epoch>\d+)\]|Iter\(train\)\s+)\[ *(?P<done>\d+)/(?P<of>\d+)\].*?eta: (?P<eta>\S+)"
)


class StatusTerminal:
    """A terminal whose last line shows the run's progress, read from the training lines that pass.

    Args:
        terminal: The terminal.
        max_epochs: Epochs of the run; None where it counts iterations.
    """

    def __init__(self, terminal: TextIO, max_epochs: int | None) -> None:
        self._terminal = terminal
        self._max_epochs = max_epochs
        self._status = ""
        self._line = LiveLine(terminal)
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write above the status line; it comes back once the text has ended its line."""
        with self._lock:
            for match in LINE.finditer(text):
                self._status = self._draw(match)
            self._line.clear()
            self._terminal.write(text)
            if self._status and text.endswith("\n"):
                self._line.show(self._status)
            self._terminal.flush()
        return len(text)

    def clear(self) -> None:
        """Wipe the status line for good."""
        with self._lock:
            self._line.clear()
            self._status = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)

    def _draw(self, match: re.Match[str]) -> str:
        done, of = int(match["done"]), int(match["of"])
        where = f"iteration {done}/{of}"
        if match["epoch"] is not None and self._max_epochs:
            epoch = int(match["epoch"])
            where = f"epoch {epoch}/{self._max_epochs}, batch {done}/{of}"
            done, of = (epoch - 1) * of + done, self._max_epochs * of
        return f"{draw_bar(done, of)} {100 * done // max(of, 1)} %  {where}  eta {match['eta']}"


@contextmanager
def status_line(train_cfg: Mapping[str, Any] | None) -> Iterator[None]:
    """Show the run's progress for as long as the `with` block, where there is a terminal.

    Args:
        train_cfg: The config's `train_cfg`, for the number of epochs.
    """
    if not sys.stdout.isatty():
        yield
        return
    before = sys.stdout
    epochs = (train_cfg or {}).get("max_epochs")
    terminal = StatusTerminal(before, int(epochs) if epochs else None)
    sys.stdout = terminal
    try:
        yield
    finally:
        sys.stdout = before
        terminal.clear()
