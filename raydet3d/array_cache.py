"""Cache files: arrays made from another file, memory-mapped, which all processes of a node share.

`SOURCE.cache` lies beside its source. It is renamed into place when it is complete, and made again when the source or
the version of its content changes. It holds numbers only, so reading it runs no code.

Layout: the arrays' bytes, each at a multiple of 64; a table in JSON (`stamp`, and dtype, shape, offset and CRC-32 by
name); length and CRC-32 of the table, 8 bytes little endian each; `MAGIC`. The table and all but the large arrays are
compared with their checksums when a cache is opened.
"""

from __future__ import annotations

import io
import json
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from raydet3d.errors import InputError
from raydet3d.files import locked, replace_file
from raydet3d.log import get_logger

MAGIC = b"raydet3d"
MIN_SOURCE_BYTES = 1 << 20
"""Sources below this size have no cache: reading them takes a few milliseconds."""

MAX_CHECKED_BYTES = 16 << 20
"""Arrays up to this size are compared with their checksums: it takes at most 10 ms. Those are the ones that index."""

_ALIGNMENT = 64
Stamp = list[str | int]
"""Version of the content; size and modification time (ns) of the source."""


class ArrayWriter:
    """Writes the arrays of a cache one after the other.

    Args:
        file: Where to write.
        is_cache: Whether this is a cache file, not memory: whether large arrays may be written that can be read from
            elsewhere, too.
    """

    def __init__(self, file: BinaryIO, *, is_cache: bool) -> None:
        self.is_cache = is_cache
        self._file = file
        self._offset = 0
        self._table: dict[str, tuple[str, list[int], int, int]] = {}

    def add(self, name: str, parts: Iterable[NDArray[np.generic]], like: NDArray[np.generic]) -> None:
        """Write an array given as parts, which are concatenated along the first axis.

        Args:
            name: Name of the array.
            parts: The parts; only one is in memory at a time.
            like: Any array, also an empty one, with the dtype and the shape after the first axis.
        """
        self._write(bytes(-self._offset % _ALIGNMENT))
        offset, rows, checksum = self._offset, 0, 0
        for part in parts:
            assert part.dtype == like.dtype
            assert part.shape[1:] == like.shape[1:]
            data = np.ascontiguousarray(part).data.cast("B") if part.size else b""
            checksum = crc32(data, checksum)
            self._write(data)
            rows += len(part)
        self._table[name] = (like.dtype.str, [rows, *like.shape[1:]], offset, checksum)

    def finish(self, stamp: Stamp) -> None:
        """Write the table."""
        table = json.dumps({"stamp": stamp, "arrays": self._table}).encode()
        self._write(table + len(table).to_bytes(8, "little") + crc32(table).to_bytes(8, "little") + MAGIC)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._offset += len(data)


class CachedArrays(Mapping[str, NDArray[Any]]):
    """Arrays of a cache, read-only.

    Args:
        data: Bytes of a cache file.
        stamp: Stamp that they must have.
        path: The file they are mapped from; another process, which gets these arrays by pickle, maps it too. None if
            they are in memory.
        is_new: Whether this process has just made them from the source.

    Raises:
        ValueError: The bytes are damaged, or have another stamp.
    """

    def __init__(self, data: mmap.mmap | bytes, stamp: Stamp, *, path: Path | None, is_new: bool) -> None:
        self.stamp = stamp
        self.path = path
        self.is_new = is_new
        self._data = data
        end = len(data) - len(MAGIC) - 16
        size = int.from_bytes(data[end : end + 8], "little")
        if end < 0 or data[end + 16 :] != MAGIC or size > end:
            raise ValueError("it is no cache, or not complete")
        table = data[end - size : end]
        if crc32(table) != int.from_bytes(data[end + 8 : end + 16], "little"):
            raise ValueError("its table is damaged")
        content = json.loads(table)
        if content["stamp"] != stamp:
            raise ValueError("it was made from another source")
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, (dtype, shape, offset, checksum) in content["arrays"].items():
            array = np.frombuffer(data, dtype, count=int(np.prod(shape)), offset=offset)
            if array.nbytes <= MAX_CHECKED_BYTES and crc32(array.data.cast("B") if array.size else b"") != checksum:
                raise ValueError(f"its array {name} is damaged")
            self._arrays[name] = array.reshape(shape)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.path, self.stamp, self._data if self.path is None else None)


def _unpickle(path: Path | None, stamp: Stamp, data: bytes | None) -> CachedArrays:
    if path is None:
        assert data is not None
        return CachedArrays(data, stamp, path=None, is_new=False)
    try:
        return _map(path, stamp, is_new=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the cache was replaced while it was in use ({error}); start again") from None


def open_cached(source: Path, version: str, fill: Callable[[ArrayWriter], None]) -> CachedArrays:
    """Map the arrays of a file's cache; make the cache first if it is absent, out of date or damaged.

    One process makes it while others wait. Where it cannot be written, the arrays are made in memory.

    Args:
        source: The file that the arrays are made from; it exists.
        version: Name and version of what `fill` makes.
        fill: Reads the source and adds the arrays; it raises `InputError` if that fails.
    """
    status = source.stat()
    stamp: Stamp = [version, status.st_size, status.st_mtime_ns]
    path = source.with_name(f"{source.name}.cache")
    if status.st_size >= MIN_SOURCE_BYTES:
        try:
            return _map(path, stamp, is_new=False)
        except (OSError, ValueError):
            found = _make(path, stamp, fill)
        if found is not None:
            return found
    memory = io.BytesIO()
    writer = ArrayWriter(memory, is_cache=False)
    fill(writer)
    writer.finish(stamp)
    return CachedArrays(memory.getvalue(), stamp, path=None, is_new=True)


def _make(path: Path, stamp: Stamp, fill: Callable[[ArrayWriter], None]) -> CachedArrays | None:
    """Write a cache under its lock, unless the holder before has; return None if it cannot be written."""
    lock = path.with_name(f".{path.name}.lock")
    temporary = path.with_name(f".{path.name}.tmp")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, timeout_s=-1, busy=f"{lock} is held", keep_file=False))
        except (OSError, InputError) as error:  # a read-only folder, or a file system without locks
            get_logger().debug("%s: no cache is written (%s)", path, error)
            return None
        try:
            return _map(path, stamp, is_new=False)
        except (OSError, ValueError):
            began = time.monotonic()
        try:
            with temporary.open("wb") as file:
                writer = ArrayWriter(file, is_cache=True)
                fill(writer)
                writer.finish(stamp)
            replace_file(temporary, path)
            made = _map(path, stamp, is_new=True)
        except OSError as error:
            get_logger().warning("%s: the cache cannot be written (%s); going on without it", path, error.strerror)
            return None
        finally:
            with suppress(OSError):
                temporary.unlink()
        get_logger().info(
            "%s: written (%.0f MB, %.1f s); further starts read it instead of %s",
            path,
            path.stat().st_size / 1e6,
            time.monotonic() - began,
            path.stem,
        )
        return made


def _map(path: Path, stamp: Stamp, *, is_new: bool) -> CachedArrays:
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return CachedArrays(data, stamp, path=path, is_new=is_new)
