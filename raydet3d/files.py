"""A lock that is a file: one process at a time, until it lets go or ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from raydet3d.errors import InputError

TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(path: Path, *, timeout_s: float, busy: str, needed: bool = True, stays: bool = True) -> Iterator[None]:
    """Hold a file's lock; it ends with the process, however that ends.

    Args:
        path: The file; it is made.
        timeout_s: How long to wait for whoever has the lock.
        busy: What to say when it stays taken.
        needed: Whether to go without where the file system has no locks (Lustre without ``-o flock``); else that is
            an error.
        stays: Whether the file is left; else it goes, and its folder with it where nothing else is in there.

    Raises:
        InputError: It stays taken, or there are no locks and one is needed.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    file = path.open("a")
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(file, path):
                    break
                file.close()  # whoever had it has taken the file away
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a")
                continue
            except OSError as error:
                if error.errno not in TAKEN:
                    if needed:
                        raise InputError(f"{path}: this file system has no file locks ({error.strerror})") from None
                    break
                if time.monotonic() >= deadline:
                    raise InputError(busy) from None
                time.sleep(0.02)
        try:
            yield
        finally:
            if not stays:
                with suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()
            with suppress(OSError):  # said, and not left to closing: a fork of this process has the file too
                fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether a file that is open is still the one of its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
