"""Journal of prepared frames, so that a stopped preparation continues where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Self, TextIO, TypeVar, cast

Record = TypeVar("Record", bound=Mapping[str, Any])


class Journal(Generic[Record]):
    """Records of finished frames, one JSON line each, so that a stopped run continues where it was.

    A truncated line ends the journal; the frames after it are prepared again.

    Args:
        path: The journal's file.
        version: Records of another version are not used.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.version = version
        self.records: dict[str, Record] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        whole = self._read()
        if whole is None:
            self.path.write_text(json.dumps({"version": self.version}) + "\n", encoding="utf-8")
        else:
            os.truncate(self.path, whole)
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, key: str, record: Record) -> None:
        """Append a finished frame, whose files have been written."""
        assert self._file is not None
        line = json.dumps({"key": key, **record}, separators=(",", ":"))
        self._file.write(line + "\n")
        self._file.flush()
        self._take(line)

    def _take(self, line: str | bytes) -> None:
        # Always parsed from JSON, so that the outputs are the same to the byte after a stop.
        record = json.loads(line)
        self.records[record.pop("key")] = cast(Record, record)

    def _read(self) -> int | None:
        """Fill the records; return the number of bytes of whole lines, None if nothing is usable."""
        whole = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    if whole:
                        self._take(line)
                    elif json.loads(line).get("version") != self.version:
                        return None
                    whole += len(line)
        except (FileNotFoundError, ValueError, KeyError, AttributeError):
            # Damaged in the middle, or not a journal: use what was read before that.
            return whole or None
        return whole or None
