"""Copies what a run writes on this machine (logs, curves, pictures) to its work dir behind a URI."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from raydet3d.runtime.store.place import Bucket, read


class Mirror:
    """The files of a local folder that stands for one behind a URI, copied up when they have changed.

    Args:
        local: The local folder.
        bucket: The place behind the URI.
        logger: Where it is said, once, that copying fails.
    """

    def __init__(self, local: Path, bucket: Bucket, logger: logging.Logger) -> None:
        self.local = local
        self.bucket = bucket
        self._logger = logger
        self._sent: dict[str, tuple[int, int]] = {}
        self._failed = False

    def fetch(self, name: str) -> None:
        """Bring a file here, if it is there: a run may go on on another machine than it began on."""
        with suppress(FileNotFoundError):
            data = read(self.bucket, name)
            self.local.mkdir(parents=True, exist_ok=True)
            (self.local / name).write_bytes(data)

    def push(self) -> None:
        """Copy what is new or has changed since the last time. A failure is told and harms nothing."""
        try:
            for path in sorted(self.local.rglob("*")):
                name = path.relative_to(self.local).as_posix()
                if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
                    continue
                stat = path.stat()
                mark = (stat.st_mtime_ns, stat.st_size)
                if self._sent.get(name) != mark:
                    self.bucket.send(name, path)
                    self._sent[name] = mark
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._logger.warning(
                    "logs could not be copied to %s (%s); they are in %s", self.bucket.uri, error, self.local
                )
            self._failed = True
