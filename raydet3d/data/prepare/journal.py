"""Journal of prepared frames, so that a stopped preparation continues where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar, cast
from zlib import crc32

from raydet3d.files import write_atomic

Record = TypeVar("Record", bound=Mapping[str, Any])


class Journal(Generic[Record]):
    """Records of finished frames, one line each, so that a stopped run continues where it was.

    A line is the CRC-32 of what follows (8 hexadecimal digits), a blank and JSON; the first one holds the version. A
    damaged line ends the journal; the frames after it are prepared again.

    Args:
        path: The journal's file.
        version: Records of another version are not used.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.version = version
        self.records: dict[str, Record] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        whole = self._read()
        if whole is None:
            write_atomic(self.path, _to_line({"version": self.version}))
        else:
            os.truncate(self.path, whole)
        self._file = self.path.open("ab")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, key: str, record: Record) -> None:
        """Append a finished frame, whose files have been written."""
        assert self._file is not None
        line = _to_line({"key": key, **record})
        self._file.write(line)
        self._file.flush()
        self._take(_from_line(line))

    def _take(self, content: dict[str, Any]) -> None:
        # Always parsed from a line, so that the outputs are the same to the byte after a stop.
        self.records[content.pop("key")] = cast(Record, content)

    def _read(self) -> int | None:
        """Fill the records; return the number of bytes of whole lines, None if nothing is usable."""
        whole = 0
        with suppress(FileNotFoundError, IsADirectoryError, ValueError), self.path.open("rb") as file:
            for line in file:
                content = _from_line(line)
                if whole:
                    self._take(content)
                elif content.get("version") != self.version:
                    return None
                whole += len(line)
        return whole or None


def _to_line(content: Mapping[str, Any]) -> bytes:
    data = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %b\n" % (crc32(data), data)


def _from_line(line: bytes) -> dict[str, Any]:
    """Parse a line.

    Raises:
        ValueError: It is truncated or damaged.
    """
    checksum, data = line[:8], line[9:-1]
    if line[8:9] != b" " or line[-1:] != b"\n" or checksum != b"%08x" % crc32(data):
        raise ValueError("a damaged line")
    content: dict[str, Any] = json.loads(data)
    return content
