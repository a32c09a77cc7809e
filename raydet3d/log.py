"""One logger for the package: to the console and to a file on rank 0, errors only on the others."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "raydet3d"
FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
DATES = "%m/%d %H:%M:%S"


def get_logger() -> logging.Logger:
    """The package's logger, for library code that reports outside a run."""
    return logging.getLogger(NAME)


class _Stdout(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever ``sys.stdout`` is at that moment, so that redirection and capture work."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE})
_failing: set[str] = set()


@contextmanager
def spared(what: str) -> Iterator[None]:
    """Let the writing of curves and pictures fail for want of room: that is told once, and the training goes on.

    Args:
        what: The file, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        if what not in _failing:
            _failing.add(what)
            get_logger().warning("%s cannot be written (%s); the training goes on without", what, error.strerror)
    else:
        _failing.discard(what)


class _File(logging.FileHandler):
    """A log file on a disk that may be full: the console still has the line."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def open_logger(name: str, file: Path | None = None, *, rank: int = 0, level: int | str = "INFO") -> logging.Logger:
    """A logger of one run, apart from every other run's.

    Args:
        name: Name of the run; makes the logger ``raydet3d.<name>``.
        file: File to append lines to (rank 0 only).
        rank: Other ranks print errors only.
        level: Least level that rank 0 prints.

    Returns:
        A logger that does not propagate; ``close_logger`` gives its file back.
    """
    logger = logging.getLogger(f"{NAME}.{name}")
    close_logger(logger)
    logger.propagate = False
    _show_library_lines(rank)
    logger.setLevel(level if rank == 0 else "ERROR")
    formatter = logging.Formatter(FORMAT.replace("%(name)s", NAME), DATES)
    handlers: list[logging.Handler] = [_Stdout()]
    if file is not None and rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_File(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger


def _show_library_lines(rank: int) -> None:
    """Let what library code warns of look like the run's lines, on the console; no file is theirs."""
    package = get_logger()
    if not package.handlers:
        console = _Stdout()
        console.setLevel("WARNING" if rank == 0 else "ERROR")
        console.setFormatter(logging.Formatter(FORMAT, DATES))
        package.addHandler(console)


def close_logger(logger: logging.Logger) -> None:
    """Close and drop a logger's handlers."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if not isinstance(handler, _Stdout):
            handler.close()
