"""Files that are whole or not there, and a journal of what is done."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from raydet3d.errors import InputError


def write_atomic(path: Path, data: bytes | memoryview, *, durable: bool = False) -> None:
    """Write a file so that nobody ever sees a part of it.

    Args:
        path: Where to.
        data: Its content.
        durable: Wait until it is on the disk; for the few files that others rely on.
    """
    # One name per target: what a killed run leaves is overwritten, not heaped up.
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def write_pickle(path: Path, content: Any) -> None:
    """Write an info file."""
    write_atomic(path, pickle.dumps(content, protocol=4), durable=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; a second process is refused, not kept waiting.

    Raises:
        InputError: Another process holds it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path.parent}: another process is preparing this folder; wait for it or stop it"
            ) from None
        except OSError:
            # Some network file systems have no locks; two runs at once would do the work twice, and do no harm.
            pass
        yield


class Journal:
    """Records of finished frames, one line each, so that a run that was stopped goes on where it was.

    A line that was cut off ends the journal; the frames after it are done again.

    Args:
        path: The journal's file.
        version: Records of another version are not used.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.version = version
        self.records: dict[str, dict[str, Any]] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Journal:
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

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Enter a frame that is done; its files have to be in place already."""
        assert self._file is not None
        line = json.dumps({"key": key, **record}, separators=(",", ":"))
        self._file.write(line + "\n")
        self._file.flush()
        self._take(line)

    def _take(self, line: str | bytes) -> None:
        # Always out of JSON, so that what is made of the records is the same to the byte after a stop.
        record = json.loads(line)
        self.records[record.pop("key")] = record

    def _read(self) -> int | None:
        """Fill the records; give the number of bytes that are whole, None where nothing can be used."""
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
            # Damaged in the middle, or not a journal: what was read before that counts.
            return whole or None
        return whole or None
