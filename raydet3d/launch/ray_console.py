"""Keep Ray's own lines (about workers that died, and the like) out of the console: they go to a file."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from raydet3d.log import LineFile

RAYS_LINE = re.compile(r"(\x1b\[\d+m)?\((raylet|autoscaler|gcs_server|pid=gcs_server)\b")
COLORS = re.compile(r"\x1b\[\d+m")


class _Filter:
    """A text stream without Ray's own lines.

    Args:
        stream: The stream.
        file: Where they go.
    """

    def __init__(self, stream: TextIO, file: LineFile) -> None:
        self._stream, self._file = stream, file
        self._state = threading.local()

    def write(self, text: str) -> int:
        """Write a text, unless it begins with one of Ray's own lines."""
        if RAYS_LINE.match(text):
            self._file.write(COLORS.sub("", text).rstrip("\n"))
            self._state.is_line_open = not text.endswith("\n")
            return len(text)
        if getattr(self._state, "is_line_open", False) and text == "\n":  # `print` writes it by itself
            self._state.is_line_open = False
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def divert_ray_lines(path: Path) -> Iterator[None]:
    """Send Ray's own lines to a file for the `with` block.

    Args:
        path: The file; it is made when the first line comes.
    """
    file = LineFile(path)
    with ExitStack() as stack:
        stack.callback(file.close)
        stack.enter_context(redirect_stdout(_Filter(sys.stdout, file)))
        stack.enter_context(redirect_stderr(_Filter(sys.stderr, file)))
        yield
