"""A progress bar that is redrawn in place on a terminal, and written as plain lines to anything else."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Self, TextIO

_PLAIN_PERIOD_S = 10.0


def draw_bar(done: int, total: int, width: int = 24) -> str:
    """Return `[####....]`."""
    filled = width * min(done, total) // max(total, 1)
    return f"[{'#' * filled}{'.' * (width - filled)}]"


class LiveLine:
    """The last line or lines of a terminal, redrawn in place; does nothing on anything else.

    Args:
        stream: Where to write; standard output by default.
        period_s: Shortest time between two drawings, seconds.
    """

    def __init__(self, stream: TextIO | None = None, period_s: float = 0.2) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.period_s = period_s
        self.is_terminal = self.stream.isatty()
        self._num_shown = 0
        self._next = 0.0

    def is_due(self) -> bool:
        """Return whether there is a terminal and the last drawing is long enough ago."""
        return self.is_terminal and time.monotonic() >= self._next

    def show(self, text: str) -> None:
        """Draw a line, cut to the terminal's width, or several lines that fit it."""
        self._next = time.monotonic() + self.period_s
        lines = text.split("\n")
        shown = text if len(lines) > 1 else text[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"{self._erasure()}{shown}")
        self.stream.flush()
        self._num_shown = len(lines)

    def clear(self) -> None:
        """Erase what is shown, so that other output can take its place; it may be drawn again at once."""
        self._next = 0.0
        if self._num_shown:
            self.stream.write(self._erasure())
            self.stream.flush()
            self._num_shown = 0

    def _erasure(self) -> str:
        """Return the control characters that go to the start of what is shown and erase it."""
        up = self._num_shown - 1
        return f"\r\x1b[{up}A\x1b[J" if up > 0 else "\r\x1b[K"


class ProgressBar:
    """Show how much of some work is done; use it in a `with` block.

    Args:
        total: Amount of work.
        title: What is being done.
        stream: Where to write; standard error by default.
    """

    def __init__(self, total: int, title: str, stream: TextIO | None = None) -> None:
        self.total = total
        self.title = title
        self.done = 0
        self._line = LiveLine(sys.stderr if stream is None else stream)
        self._start = self._last = time.monotonic()
        self._skipped = 0

    def __enter__(self) -> Self:
        if self.total and not self._line.is_terminal:
            self._write_line()
        return self

    def __exit__(self, *error: object) -> None:
        if self.total:
            self._line.clear()
            self._write_line()

    def skip(self, count: int) -> None:
        """Count work that was done earlier and says nothing about the speed."""
        self.done += count
        self._skipped += count

    def step(self, count: int = 1) -> None:
        """Count finished work."""
        self.done += count
        if self._line.is_due():
            self._line.show(f"{draw_bar(self.done, self.total)} {self._text()}")
        elif not self._line.is_terminal and time.monotonic() - self._last >= _PLAIN_PERIOD_S:
            self._write_line()

    def _write_line(self) -> None:
        self._last = time.monotonic()
        self._line.stream.write(f"{self._text()}\n")
        self._line.stream.flush()

    def _text(self) -> str:
        elapsed = time.monotonic() - self._start
        text = f"{self.title}: {self.done}/{self.total}"
        fresh = self.done - self._skipped
        if not fresh or elapsed <= 0:
            return text
        left = int((self.total - self.done) * elapsed / fresh)
        when = f"{left // 60}:{left % 60:02d} left" if left else f"{elapsed:.1f} s"
        return f"{text}, {fresh / elapsed:.1f}/s, {when}"
