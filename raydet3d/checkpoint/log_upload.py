"""Upload what a run writes on this machine (logs, curves, pictures) to its work dir behind a URI."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from raydet3d.checkpoint.storage import ObjectStorage, read

STARTS, REACHED = "starts.jsonl", ".reached"
JOURNALS = (STARTS, REACHED, "scalars.json", "analysis.json")
"""Files that are continued from start to start of a run."""


class LogUploader:
    """Uploads the changed files of the local folder that mirrors a work dir behind a URI.

    Args:
        local: The local folder.
        bucket: The storage behind the URI.
        logger: Logger for a failed upload, once.
    """

    def __init__(self, local: Path, bucket: ObjectStorage, logger: logging.Logger) -> None:
        self.local = local
        self.bucket = bucket
        self._logger = logger
        self._sent: dict[str, tuple[int, int]] = {}
        self._failed = False

    def pull(self, *more: str) -> None:
        """Download the files that are continued from start to start, where another machine has come further.

        Args:
            more: Further files to download.
        """
        theirs, ours = self._read(STARTS), self.local / STARTS
        if ours.exists() and len(theirs or b"") <= ours.stat().st_size:
            return
        self.local.mkdir(parents=True, exist_ok=True)
        for name in (*JOURNALS, *more):
            if (content := self._read(name)) is not None:
                (self.local / name).write_bytes(content)
            else:
                (self.local / name).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return read(self.bucket, name)
        return None

    def push(self) -> None:
        """Upload what is new or has changed since the last call. A failure is logged."""
        try:
            for path in sorted(self.local.rglob("*")):
                name = path.relative_to(self.local).as_posix()
                hidden = name not in JOURNALS and any(part.startswith(".") for part in Path(name).parts)
                if hidden or not path.is_file():
                    continue
                stat = path.stat()
                mark = (stat.st_mtime_ns, stat.st_size)
                if self._sent.get(name) != mark:
                    self.bucket.send(name, path)
                    self._sent[name] = mark
            self._failed = False
        except Exception as error:  # noqa: BLE001 - file systems raise errors of their own
            if not self._failed:
                self._logger.warning(
                    "logs could not be copied to %s (%s); they are in %s", self.bucket.uri, error, self.local
                )
            self._failed = True
