"""The store: where a run's checkpoints live, and the few questions asked of it.

    save(state, name, step=, ...)   copy to the host, then write behind the training's back
    latest() / best(metric)         newest / best checkpoint that is whole; broken ones are named and passed over
    surplus(entries, limit)         which ones to drop: a pure function

A checkpoint is a file and its manifest, ``epoch_3.pth`` and ``epoch_3.pth.json``. The file is written beside its place,
synced and renamed; the manifest comes last, so what has none does not exist. Only then is an older one dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from raydet3d import __version__
from raydet3d.errors import InputError
from raydet3d.runtime.reader import read_checkpoint

POINTER = "last_checkpoint"


@dataclass(frozen=True)
class Entry:
    """A checkpoint's manifest.

    Args:
        name: The file's name.
        sha256: Digests that the file may have: one, but for the moment in which a file is replaced by one of its name.
        size: Bytes.
        step: Iterations finished.
        serial: Counts the saves into this folder.
        group: Those of a group share a keep-limit: ``epoch``, ``iter``, ``best_...``.
        run: The run that wrote it; the same after a resume.
        start: The start of the run (its timestamp) that wrote it.
        seed: The run's seed.
        scores: Metrics known when it was written.
        time: When it was written.
        versions: Of raydet3d and torch.
        config: Digest of the config's text.
        resumable: Whether training can go on from it; the best models, without the optimizer, are for use.
    """

    name: str
    sha256: list[str]
    size: int
    step: int
    serial: int
    group: str = ""
    run: str = ""
    start: str = ""
    seed: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    time: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    config: str = ""
    resumable: bool = True


class Sink:
    """A file that counts and digests what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        """Write bytes."""
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._file.flush()


def surplus(entries: Iterable[Entry], limit: int) -> list[Entry]:
    """Those to drop so that the ``limit`` newest stay; none for a limit below 1."""
    ordered = sorted(entries, key=lambda entry: entry.serial)
    return ordered[:-limit] if limit > 0 else []


class Folder:
    """What is asked of the place where checkpoints lie; this one is a local or mounted folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Names of the files there."""
        return sorted(os.listdir(self.path)) if self.path.is_dir() else []

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return (self.path / name).read_bytes()

    def write(self, name: str, fill: Callable[[Sink], None]) -> tuple[str, int]:
        """Write a file so that it is there whole or not at all.

        Args:
            name: Its name.
            fill: Writes the content.

        Returns:
            Digest and size of what was written, in a file under a temporary name that ``commit`` gives its own.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._temporary(name).open("wb") as file:
            sink = Sink(file)
            fill(sink)
            file.flush()
            os.fsync(file.fileno())
        return sink.digest.hexdigest(), sink.size

    def commit(self, name: str) -> None:
        """Put what was written in place."""
        self._temporary(name).replace(self.path / name)
        place = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""

        def fill(file: Sink) -> None:
            file.write(text.encode())

        self.write(name, fill)
        self.commit(name)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what interrupted writes have left."""
        for name in self.names():
            if name.startswith(".") and name.endswith(".tmp"):
                with suppress(OSError):  # a remnant takes room and does no more harm
                    self.remove(name)

    def _temporary(self, name: str) -> Path:
        return self.path / f".{name}.tmp"


class Store:
    """A run's checkpoints in a folder. Only rank 0's writes.

    Args:
        path: The folder.
        run: Name of the run, for the manifests.
        start: Timestamp of this start.
        seed: The run's seed.
        logger: Where broken checkpoints and failed writes are named.
        pointer_dir: Folder of the ``last_checkpoint`` file; ``path`` by default.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: str = "",
        start: str = "",
        seed: int | None = None,
        logger: logging.Logger | None = None,
        pointer_dir: Path | None = None,
    ) -> None:
        self.folder = Folder(path)
        self.run = run
        self.start = start
        self.seed = seed
        self.logger = logger or logging.getLogger("raydet3d")
        self._pointers = Folder(pointer_dir or path)
        self._thread: threading.Thread | None = None
        self.failure: str | None = None

    # -- writing ------------------------------------------------------------------------------------------------

    def save(
        self,
        state: Mapping[str, Any],
        name: str,
        *,
        step: int,
        group: str = "",
        scores: Mapping[str, float] | None = None,
        limit: int = -1,
        point: bool = True,
        resumable: bool = True,
    ) -> Path:
        """Save a checkpoint: returns when its copy on the host is made; a thread writes it.

        Args:
            state: What to save.
            name: File name.
            step: Iterations finished.
            group: Group that ``limit`` counts.
            scores: Metrics to note in the manifest.
            limit: How many of the group to keep; the older ones of this run are dropped once this one is safe.
            point: Whether ``last_checkpoint`` names it then.
            resumable: Whether training can go on from it.
        """
        self.drain()  # one in flight at a time
        copy = to_host(state)
        job = (copy, name, step, group, {k: float(v) for k, v in (scores or {}).items()}, limit, point, resumable)
        self._thread = threading.Thread(target=self._write, args=job, name="checkpoint-writer")
        self._thread.start()
        return self.folder.path / name

    def drain(self) -> None:
        """Wait until what was saved is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(
        self,
        state: dict[str, Any],
        name: str,
        step: int,
        group: str,
        scores: dict[str, float],
        limit: int,
        point: bool,
        resumable: bool,
    ) -> None:
        try:
            entries = self.entries()
            serial = max((entry.serial for entry in entries), default=0) + 1
            digest, size = self.folder.write(name, lambda file: torch.save(state, cast("IO[bytes]", file)))
            entry = Entry(
                name=name,
                sha256=[digest],
                size=size,
                step=step,
                serial=serial,
                group=group,
                run=self.run,
                start=self.start,
                seed=self.seed,
                scores=scores,
                time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                versions={"raydet3d": __version__, "torch": str(torch.__version__)},
                config=hashlib.sha256(str(state.get("meta", {}).get("cfg", "")).encode()).hexdigest(),
                resumable=resumable,
            )
            before = [e for e in entries if e.name == name]
            if before:  # replaced by one of its name: at no moment may there be neither
                both = {**asdict(before[0]), "sha256": [*before[0].sha256, digest]}
                self.folder.write_text(f"{name}.json", json.dumps(both, indent=1))
            self.folder.commit(name)
            self.folder.write_text(f"{name}.json", json.dumps(asdict(entry), indent=1))
            if point:
                self._pointers.write_text(POINTER, os.path.relpath(self.folder.path / name, self._pointers.path))
            self.failure = None
        except Exception as error:  # noqa: BLE001 - the thread ends here: what is not told to the run is lost
            self.failure = f"checkpoint {name} could not be written: {_reason(error, state, self.folder.path)}"
            self.logger.error("%s; training goes on, earlier checkpoints are untouched", self.failure)
            return
        mine = [e for e in entries if e.name != name and e.group == group and e.run == self.run]
        for old in surplus([*mine, entry], limit):
            self.drop(old.name)

    def drop(self, name: str) -> None:
        """Delete a checkpoint: the manifest first. One that cannot be deleted is named, and does no more harm."""
        try:
            self.folder.remove(f"{name}.json")
            self.folder.remove(name)
        except OSError as error:
            self.logger.warning("old checkpoint %s could not be deleted: %s", name, error.strerror)

    # -- reading ------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """The manifests that can be read, oldest save first."""
        known = {f.name for f in fields(Entry)}
        out = []
        for name in self.folder.names():
            if not name.endswith(".pth.json") or name.startswith("."):
                continue
            try:
                content = json.loads(self.folder.read(name))
                out.append(Entry(**{k: v for k, v in content.items() if k in known}))
            except (OSError, ValueError, TypeError, AttributeError):
                self.logger.warning("manifest %s cannot be read: its checkpoint is passed over", name)
        return sorted(out, key=lambda entry: entry.serial)

    def newest_own(self) -> Path | None:
        """This run's newest regular checkpoint (no ``best_...``) that is in place."""
        own = [e for e in self.entries() if e.run == self.run and not e.group.startswith("best_")]
        return self.folder.path / own[-1].name if own else None

    def has_own(self) -> bool:
        """Whether this run has a checkpoint here."""
        return any(entry.run == self.run for entry in self.entries())

    def fault(self, entry: Entry) -> str | None:
        """What is wrong with a checkpoint; None if it is whole."""
        try:
            data = self.folder.read(entry.name)
        except OSError as error:
            return f"{entry.name} cannot be read ({error.strerror})"
        digest = hashlib.sha256(data).hexdigest()
        if digest in entry.sha256:
            return None
        if len(data) != entry.size:
            return f"{entry.name} has {len(data)} bytes, its manifest says {entry.size}"
        return f"{entry.name} is damaged: its SHA-256 differs from its manifest's"

    def latest(self, *, start: str | None = None) -> Path | None:
        """The newest whole checkpoint that training can go on from, of the run that saved last.

        Args:
            start: Only those that this start (timestamp) of the run wrote.
        """
        entries = [e for e in self.entries() if e.resumable]
        if start is not None:
            entries = [e for e in entries if e.start == start]
        for entry in reversed(entries):
            if entry.run != entries[-1].run:
                continue
            wrong = self.fault(entry)
            if wrong is None:
                return self.folder.path / entry.name
            self.logger.warning("checkpoint %s; trying the one before", wrong)
        return None if start is not None else self._pointed()

    def best(self, metric: str, *, greater: bool = True) -> Path | None:
        """The whole checkpoint with the best score of a metric."""
        scored = [e for e in self.entries() if metric in e.scores]
        for entry in sorted(scored, key=lambda e: e.scores[metric], reverse=greater):
            wrong = self.fault(entry)
            if wrong is None:
                return self.folder.path / entry.name
            self.logger.warning("checkpoint %s; trying the next best", wrong)
        return None

    def _pointed(self) -> Path | None:
        """The checkpoint that ``last_checkpoint`` names: MMEngine's work dirs have no manifests."""
        try:
            text = self._pointers.read(POINTER).decode().strip()
        except (OSError, UnicodeDecodeError):
            return None
        named = Path(text)
        for path in (self._pointers.path / named, self._pointers.path / named.name):
            if path.is_file() and not (path.parent / f"{path.name}.json").exists():
                try:
                    read_checkpoint(path)
                except InputError as error:
                    self.logger.warning("%s; passed over", error)
                    continue
                return path
        return None


def to_host(value: Any) -> Any:
    """A copy of nested containers with every tensor cloned to the host; numbers and strings are kept."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: to_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        copies = [to_host(item) for item in value]
        return copies if isinstance(value, list) else tuple(copies)
    return value


def _num_bytes(value: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (Mapping, list, tuple)):
        return sum(map(_num_bytes, value.values() if isinstance(value, Mapping) else value))
    return 0


def _reason(error: BaseException, state: Mapping[str, Any], folder: Path) -> str:
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    try:
        disk = os.statvfs(folder)
    except OSError:
        return str(text)
    free = disk.f_bavail * disk.f_frsize
    return f"{text} (it needs {_num_bytes(state) / 2**20:.1f} MB, {free / 2**20:.1f} MB are free)"
