"""One logger for the package: to the console and to a file on rank 0, errors only on the others."""

from __future__ import annotations

import errno
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from raydet3d.active_run import ActiveRunProxy

NAME = "raydet3d"
FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
DATES = "%m/%d %H:%M:%S"


class LineFile:
    """A file that whole lines are appended to. It stays open between them, since opening costs more than writing.

    Args:
        path: The file; its folder is made when the first line comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number: int | None = None
        self._torn = False  # whether a full disk has cut the last line short

    def write(self, line: str) -> None:
        """Append a line; it is in the file when this returns, unless the disk is full."""
        with tolerate_full_disk(str(self.path)):
            if self._number is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            data = f"{chr(10) * self._torn}{line}\n".encode()
            self._torn = True
            self._torn = os.write(self._number, data) < len(data)

    def close(self) -> None:
        """Give the file back; a further line opens it anew."""
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def __del__(self) -> None:
        self.close()


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
def tolerate_full_disk(what: str) -> Iterator[None]:
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

    def _open(self) -> TextIOWrapper:
        # Its folder goes away again with a start that comes to nothing; another try may have something to say.
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Held(logging.handlers.BufferingHandler):
    """Keeps lines until it is known whether there will be a run to speak of.

    Args:
        file: Where they go besides the console.
    """

    def __init__(self, file: Path | None) -> None:
        super().__init__(capacity=0)
        self.file = file

    def shouldFlush(self, record: logging.LogRecord) -> bool:
        """Never by itself."""
        return False


def open_logger(
    name: str, file: Path | None = None, *, rank: int = 0, level: int | str = "INFO", held: bool = False
) -> logging.Logger:
    """A logger of one run, apart from every other run's.

    Args:
        name: Name of the run; makes the logger ``raydet3d.<name>``.
        file: File to append lines to (rank 0 only).
        rank: Other ranks print errors only.
        level: Least level that rank 0 prints.
        held: Keep all lines back until ``release_buffered``; the file is not made before.

    Returns:
        A logger that does not propagate; ``close_logger`` gives its file back.
    """
    logger = logging.getLogger(f"{NAME}.{name}")
    close_logger(logger)
    logger.propagate = False
    _show_library_lines(rank)
    logger.setLevel(level if rank == 0 else "ERROR")
    file = file if rank == 0 else None
    if held:
        logger.addHandler(_Held(file))
    else:
        _add_handlers(logger, file)
    return logger


def _add_handlers(logger: logging.Logger, file: Path | None) -> None:
    formatter = logging.Formatter(FORMAT.replace("%(name)s", NAME), DATES)
    handlers: list[logging.Handler] = [_Stdout()]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_File(file, encoding="utf-8", delay=True))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)


def release_buffered(logger: logging.Logger) -> None:
    """Write the lines that a logger has kept back; from now on they are written as they come."""
    for held in [handler for handler in logger.handlers if isinstance(handler, _Held)]:
        logger.removeHandler(held)
        _add_handlers(logger, held.file)
        for record in held.buffer:
            logger.handle(record)


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


class MMLogger:
    """MMEngine's way to ask for a logger: every name means the logger of the run that is at work."""

    @staticmethod
    def get_instance(name: str = "", **kwargs: Any) -> Any:
        """The logger of the run that is at work; the package's, where none is.

        Args:
            name: Accepted for MMEngine's sake, as is the rest.
            **kwargs: See ``name``.
        """
        return ActiveRunProxy("logger", get_logger)

    @staticmethod
    def get_current_instance() -> Any:
        """The logger of the run that is at work; the package's, where none is."""
        return ActiveRunProxy("logger", get_logger)


def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
    """Say something, by MMEngine's function name.

    Args:
        msg: What to say.
        logger: None prints, ``silent`` says nothing, a logger logs, ``current`` or another name means the logger of the
            run that is at work.
        level: Its level.
    """
    if logger is None:
        print(msg)
    elif logger != "silent":
        (MMLogger.get_current_instance() if isinstance(logger, str) else logger).log(level, msg)
