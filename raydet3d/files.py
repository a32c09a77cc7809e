"""Atomic writes, locks, JSON lines, damaged files set aside, and sizes given as text."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raydet3d.errors import InputError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", re.IGNORECASE)
_POLL_S = 0.02


def parse_bytes(size: int | str) -> int:
    """Parse a number of bytes.

    Args:
        size: A number, or text with a unit: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB powers of 1024. The
            `B` may be left out, and case does not matter.

    Raises:
        ValueError: It is neither.
    """
    match = None if isinstance(size, bool) else _SIZE.fullmatch(str(size))
    if match is None:
        raise ValueError(f"a size is a number of bytes or text like '500MB', '20GB' or '1TiB', got {size!r}")
    number, unit, binary = match.groups()
    power = " kmgt".index(unit.lower()) if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def write_atomic(path: Path, data: bytes | memoryview, *, durable: bool = False) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Args:
        path: Target.
        data: Content.
        durable: Wait until the data are on the disk (fsync); for the few files that others rely on.
    """
    # One temporary name per target: what a killed process leaves is overwritten and does not pile up.
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    replace_file(temporary, path)


def write_output(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file that the user has asked for, with its folder; where that fails, the path is bad input."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, durable=durable)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def replace_file(source: Path, target: Path) -> None:
    """Rename a file in place of another one; a folder that has the name is set aside."""
    if target.is_dir() and not target.is_symlink():
        set_aside(target)
    source.replace(target)


def write_pickle(path: Path, content: object) -> None:
    """Write an info file: pickle protocol 4, atomic and durable."""
    write_atomic(path, pickle.dumps(content, protocol=4), durable=True)


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file or folder to `NAME.damaged` (`NAME.damaged-2`, ... where that is taken).

    Returns:
        Its new path; None where it cannot be renamed, or is gone.
    """
    for number in itertools.count(1):
        target = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        if not os.path.lexists(target):
            break
    try:
        path.rename(target)
    except OSError:
        return None
    return target


def append_json_line(path: Path, entry: Mapping[str, object]) -> None:
    """Add an object to a JSON lines file, on the disk before this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(
    path: Path, is_valid: Callable[[dict[str, Any]], bool] = lambda _: True
) -> tuple[list[dict[str, Any]], str | None]:
    """Read the objects of a JSON lines file; what cannot be read is set aside.

    A damaged file is renamed to `NAME.damaged` and replaced by its readable lines, so that the damage is reported once
    and lines can be appended. A last line without its end, as a killed process leaves it, is no damage.

    Args:
        path: The file.
        is_valid: Whether an object has the keys and types that it must have.

    Returns:
        The objects, and a sentence about damage (None where there is none).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], _describe_damage(path, f"cannot be read ({error.strerror})", set_aside(path))
    found: list[dict[str, Any]] = []
    kept: list[bytes] = []
    bad = 0
    lines = data.splitlines(keepends=True)
    for line in lines:
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not is_valid(entry):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            bad += bool(line.strip()) and line.endswith(b"\n")
        else:
            found.append(entry)
            kept.append(line.rstrip(b"\r\n") + b"\n")
    moved = set_aside(path) if bad else None
    if b"".join(kept) != data and (moved is not None or not bad):
        with suppress(OSError):
            write_atomic(path, b"".join(kept))
    return found, _describe_damage(path, f"has {bad} damaged of {len(lines)} lines", moved) if bad else None


def _describe_damage(path: Path, what: str, moved: Path | None) -> str:
    return f"{path} {what}" + (f"; it is kept as {moved.name}" if moved is not None else "")


@contextmanager
def locked(path: Path, *, timeout_s: float, busy: str, required: bool = True, keep_file: bool = True) -> Iterator[None]:
    """Hold a lock file; the lock ends with the process, however that ends.

    Args:
        path: The lock file; it is created, its folder too.
        timeout_s: Seconds to wait for another holder; below 0, without end.
        busy: Error message when another process keeps it.
        required: Whether a file system without locks (Lustre without `-o flock`) is an error; else continue without.
        keep_file: Whether the lock file stays afterwards; else it is removed, and its folder too if that is empty.

    Raises:
        InputError: Another process keeps it, or locks are required and not available.
    """
    import filelock

    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A soft lock of a killed process on another machine would never end, so there is no falling back to one.
        lock = filelock.FileLock(
            path, timeout=timeout_s, poll_interval=_POLL_S, thread_local=False, fallback_to_soft=False
        )
        # Holding the file open keeps its inode number from being used again.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock.acquire()
            if _is_same(descriptor, path):
                break
            lock.release()  # the previous holder has removed the file: this lock would exclude no process
        except filelock.Timeout:
            raise InputError(busy) from None
        except (OSError, NotImplementedError) as error:
            if required:
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"{path}: this file system has no file locks ({reason})") from None
            break
        finally:
            os.close(descriptor)
    try:
        yield
    finally:
        if not keep_file:
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()
        lock.release()


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
