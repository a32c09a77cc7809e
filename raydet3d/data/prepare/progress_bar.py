"""A progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Self, TextIO

_WIDTH = 30
# Seconds between two drawings on a terminal, and between two lines elsewhere.
_REDRAW_S = 0.1
_LINE_S = 10.0


class ProgressBar:
    """Counts work that is done; use it in a `with` block.

    Args:
        total: How much there is to do.
        title: What is being done.
        stream: Where to draw; standard error by default.
    """

    def __init__(self, total: int, title: str, stream: TextIO | None = None) -> None:
        self.total = total
        self.title = title
        self.done = 0
        self.stream = sys.stderr if stream is None else stream
        self._live = self.stream.isatty()
        self._start = self._last = time.monotonic()
        self._begun_with = 0

    def __enter__(self) -> Self:
        if self.total and not self._live:
            self._say(self._text())
        return self

    def __exit__(self, *error: object) -> None:
        if self.total:
            self._draw()
        if self._live:
            self._say("")

    def skip(self, count: int) -> None:
        """Count work that was done earlier; it says nothing about the speed."""
        self.done += count
        self._begun_with += count

    def step(self, count: int = 1) -> None:
        """Count work that was done now."""
        self.done += count
        now = time.monotonic()
        if now - self._last >= (_REDRAW_S if self._live else _LINE_S):
            self._last = now
            self._draw()

    def _draw(self) -> None:
        if self._live:
            full = _WIDTH * self.done // max(self.total, 1)
            self.stream.write(f"\r\x1b[K[{'#' * full}{'.' * (_WIDTH - full)}] {self._text()}")
            self.stream.flush()
        else:
            self._say(self._text())

    def _text(self) -> str:
        spent = time.monotonic() - self._start
        text = f"{self.title}: {self.done}/{self.total}"
        fresh = self.done - self._begun_with
        if not fresh or spent <= 0:
            return text
        left = int((self.total - self.done) * spent / fresh)
        when = f"{left // 60}:{left % 60:02d} left" if left else f"{spent:.1f} s"
        return f"{text}, {fresh / spent:.1f}/s, {when}"

    def _say(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()
