"""Loggers of the package and of each run: console and file on rank 0, errors only on the other ranks."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from raydet3d.active_run import ActiveRunProxy

NAME = "raydet3d"
FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
DATES = "%m/%d %H:%M:%S"


class LineFile:
    """Append lines to a file, which stays open between writes because opening costs more than writing.

    Args:
        path: The file; it and its folder are created by the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number: int | None = None
        self._torn = False  # whether the last line is incomplete because the disk was full

    def write(self, line: str) -> None:
        """Append a line without buffering; if the disk is full, warn and continue."""
        with tolerate_full_disk(str(self.path)):
            if self._number is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            data = f"{chr(10) * self._torn}{line}\n".encode()
            self._torn = True
            self._torn = os.write(self._number, data) < len(data)

    def close(self) -> None:
        """Close the file; the next `write` reopens it."""
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def __del__(self) -> None:
        self.close()


def get_logger() -> logging.Logger:
    """Return the package's logger, for library code that logs outside a run."""
    return logging.getLogger(NAME)


class _Stdout(logging.StreamHandler):  # type: ignore[type-arg]
    """Stream handler that looks up `sys.stdout` for each record, so that redirection and capture work."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE})
_failing: set[str] = set()


@contextmanager
def tolerate_full_disk(what: str) -> Iterator[None]:
    """Ignore write errors of a full or failing disk, and warn once for each file; training continues.

    Args:
        what: The file, for the warning.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        if what not in _failing:
            _failing.add(what)
            get_logger().warning("%s cannot be written (%s); training continues without it", what, error.strerror)
    else:
        _failing.discard(what)


class _File(logging.FileHandler):
    """File handler that ignores write errors, such as a full disk; the console handler still prints the line."""

    def _open(self) -> TextIOWrapper:
        # A start that fails early removes the folder; a retry in the same process may still log.
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def open_logger(
    name: str, file: Path | None = None, *, rank: int = 0, level: int | str = "INFO", held: bool = False
) -> logging.Logger:
    """Create the logger of a run, separate from the loggers of other runs.

    Args:
        name: Name of the run; the logger is `raydet3d.<name>`.
        file: File to append lines to (rank 0 only).
        rank: This process's rank; ranks other than 0 log errors only.
        level: Log level on rank 0.
        held: Buffer all lines until `release_buffered`; the file is not created before.

    Returns:
        A logger that does not propagate; `close_logger` closes its file.
    """
    logger = logging.getLogger(f"{NAME}.{name}")
    close_logger(logger)
    logger.propagate = False
    _show_library_lines(rank)
    logger.setLevel(level if rank == 0 else "ERROR")
    handlers: list[logging.Handler] = [_Stdout()]
    if file is not None and rank == 0:
        handlers.append(_File(file, encoding="utf-8", delay=True))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT.replace("%(name)s", NAME), DATES))
        logger.addHandler(MemoryHandler(sys.maxsize, sys.maxsize, handler, flushOnClose=False) if held else handler)
    return logger


def release_buffered(logger: logging.Logger) -> None:
    """Write the buffered lines of a logger and stop buffering."""
    for held in [handler for handler in logger.handlers if isinstance(handler, MemoryHandler)]:
        held.flush()
        logger.removeHandler(held)
        if held.target is not None:
            logger.addHandler(held.target)


def _show_library_lines(rank: int) -> None:
    """Print warnings of the package's logger to the console, formatted like a run's lines; they go to no file."""
    package = get_logger()
    if not package.handlers:
        console = _Stdout()
        console.setLevel("WARNING" if rank == 0 else "ERROR")
        console.setFormatter(logging.Formatter(FORMAT, DATES))
        package.addHandler(console)


def close_logger(logger: logging.Logger) -> None:
    """Remove and close a logger's handlers."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if not isinstance(handler, _Stdout):
            handler.close()


class MMLogger:
    """MMEngine's logger interface: every name refers to the logger of the active run."""

    @staticmethod
    def get_instance(name: str = "", **kwargs: object) -> Any:
        """Return the logger of the active run, or the package's logger if no run is active.

        Args:
            name: Ignored; accepted for compatibility with MMEngine.
            **kwargs: Ignored as well.
        """
        return ActiveRunProxy("logger", get_logger)

    get_current_instance = get_instance


def print_log(msg: object, logger: logging.Logger | str | None = None, level: int = logging.INFO) -> None:
    """Print or log a message (MMEngine's function).

    Args:
        msg: The message.
        logger: None prints the message and `silent` drops it. A logger logs it. `current` or any other name selects
            the logger of the active run.
        level: Log level.
    """
    if logger is None:
        print(msg)
    elif logger != "silent":
        (MMLogger.get_current_instance() if isinstance(logger, str) else logger).log(level, msg)
