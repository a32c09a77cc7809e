"""The store: where a run's checkpoints live, and the few questions asked of it.

    save(state, name, step=, ...)   copy to the host, then write behind the training's back
    latest() / best(metric)         newest / best checkpoint that is whole; broken ones are named and passed over

A checkpoint is a file and its manifest, ``epoch_3.pth`` and ``epoch_3.pth.json``. The file is written beside its place,
synced and renamed; the manifest comes last, so what has none does not exist. Only then is an older one dropped.
A state whose tensors are sharded over the ranks becomes a folder, ``epoch_3.pth/``, under the same rules: what its
manifest does not list is not in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import torch

from raydet3d import __version__
from raydet3d.checkpoint.load import load_metadata, load_shards
from raydet3d.checkpoint.manifest import Manifest, surplus
from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.checkpoint.staging import HostStaging, is_sharded, num_bytes
from raydet3d.checkpoint.storage import LocalStorage, Location, ObjectStorage, Storage, digest_of, open_storage, read
from raydet3d.config import is_uri
from raydet3d.errors import InputError

POINTER = "last_checkpoint"
BEGUN, NEW = ".begun", b"new"


@dataclass(frozen=True, kw_only=True)
class _Order:
    """One save: the manifest as far as it is known, and what happens round it."""

    entry: Manifest
    limit: int
    budget: int | None
    point: bool


class CheckpointStore:
    """A run's checkpoints in a folder or behind a URI. Only rank 0's writes, unless the state is sharded.

    Args:
        path: The folder, or a URI of one.
        run: Name of the run, for the manifests.
        start: Timestamp of this start.
        seed: The run's seed.
        logger: Where broken checkpoints and failed writes are named.
        pointer_dir: Folder of the ``last_checkpoint`` file; ``path`` by default.
    """

    def __init__(
        self,
        path: Location,
        *,
        run: str = "",
        start: str = "",
        seed: int | None = None,
        logger: logging.Logger | None = None,
        pointer_dir: Location | None = None,
    ) -> None:
        self.storage: Storage = open_storage(path)
        self.home = path
        self.run = run
        self.start = start
        self.seed = seed
        self.logger = logger or logging.getLogger("raydet3d")
        self._pointer_storage = self.storage if pointer_dir is None else open_storage(pointer_dir)
        self._copies = HostStaging()
        self._ranks: Any = None  # of a sharded model, once it is saved
        self._thread: threading.Thread | None = None
        self.failure: str | None = None  # of the last save
        self.after_write: Callable[[], None] | None = None  # called when a checkpoint is in place
        self.lost: dict[str, str] = {}  # why each checkpoint that could not be written is missing

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
        budget: int | None = None,
        milestone: bool = False,
        point: bool = True,
        resumable: bool = True,
    ) -> Location:
        """Save a checkpoint: returns when its copy on the host is made; a thread writes it.

        Every rank calls it for a sharded state, rank 0 alone otherwise.

        Args:
            state: What to save.
            name: File name.
            step: Iterations finished.
            group: Group that ``limit`` counts.
            scores: Metrics to note in the manifest.
            limit: How many of the group to keep; the older ones of this run are dropped once this one is safe.
            budget: Bytes that this run's checkpoints may have here together (see ``surplus``).
            milestone: Whether it stays whatever ``limit`` says.
            point: Whether ``last_checkpoint`` names it then.
            resumable: Whether training can go on from it.
        """
        self.drain()  # one in flight at a time
        sharded = is_sharded(state)
        if sharded and self._ranks is None:
            from raydet3d.checkpoint.sharded import Ranks  # half of torch.distributed: for those who use it

            self._ranks = Ranks()
        entry = Manifest(
            name=name,
            sha256=[],
            size=0,
            step=step,
            serial=0,
            group=group,
            run=self.run,
            start=self.start,
            seed=self.seed,
            scores={k: float(v) for k, v in (scores or {}).items()},
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            versions={"raydet3d": __version__, "torch": str(torch.__version__)},
            config=hashlib.sha256(str(state.get("meta", {}).get("cfg", "")).encode()).hexdigest(),
            resumable=resumable,
            milestone=milestone,
        )
        order = _Order(entry=entry, limit=limit, budget=budget, point=point)
        copy = self._copies.take(state)
        target = self._write_shards if sharded else self._write
        self._thread = threading.Thread(target=target, args=(copy, order), name="checkpoint-writer")
        self._thread.start()
        return self.storage.location(name)

    def drain(self) -> None:
        """Wait until what was saved is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: dict[str, Any], order: _Order) -> None:
        name = order.entry.name
        try:
            self._copies.wait()
            entries = self.entries()
            self._announce(name, entries, sharded=False)
            digest, size = self.storage.prepare(name, lambda file: torch.save(state, cast("IO[bytes]", file)))
            before = [e for e in entries if e.name == name]
            if before:  # replaced by one of its name: at no moment may there be neither
                self._put_manifest(replace(before[0], sha256=[*before[0].sha256, digest]))
            self.storage.commit(name)
            entry = replace(order.entry, sha256=[digest], size=size, serial=_next(entries))
            self._finish(entry, entries, order)
        except Exception as error:  # noqa: BLE001 - the thread ends here: what is not told to the run is lost
            self._fail(error, state, name)

    def _write_shards(self, state: dict[str, Any], order: _Order) -> None:
        """Write this rank's shards; rank 0 collects what the others say and commits."""
        name, first = order.entry.name, self._ranks.rank == 0
        entries: list[Manifest] = []
        try:
            self._copies.wait()
            failure: Exception | None = None
            if first:
                try:
                    entries = self.entries()
                    self._announce(name, entries, sharded=True)
                except Exception as error:  # noqa: BLE001 - the others wait to hear of it
                    failure = error
            serial = self._ranks.agree(None if failure else _next(entries))
            if serial is None:
                raise failure or OSError("rank 0 could not begin it")
            files = self._ranks.write(state, self.storage, name, str(serial))
            if first:
                size = sum(size for _, size in files.values())
                world = self._ranks.world_size
                entry = replace(order.entry, size=size, serial=serial, files=files, world_size=world)
                self._finish(entry, entries, order)
        except Exception as error:  # noqa: BLE001 - as above
            if first:
                self._fail(error, state, name)

    def _announce(self, name: str, entries: list[Manifest], *, sharded: bool) -> None:
        """Say what is about to be written, so that what a kill leaves of it can be told from other people's files."""
        for old in entries:
            if old.name == name and bool(old.files) != sharded:  # a file cannot take a folder's place
                self.drop(old)
        self.storage.put(f".{name}{BEGUN}", b"" if self.storage.exists(name) else NEW)

    def _finish(self, entry: Manifest, entries: list[Manifest], order: _Order) -> None:
        """Commit by the manifest, point, and drop what is in excess now."""
        self._put_manifest(entry)
        self._clear(entry.name)
        if order.point:
            target = self.storage.location(entry.name)
            if isinstance(target, Path) and isinstance(self._pointer_storage, LocalStorage):
                target = os.path.relpath(target, self._pointer_storage.path)
            elif self._pointer_storage is self.storage:
                target = entry.name
            self._pointer_storage.put(POINTER, str(target).encode())
        self.failure = None
        self.lost.pop(entry.name, None)
        if self.after_write is not None:
            self.after_write()
        mine = [e for e in entries if e.name != entry.name and e.run == self.run] + [entry]
        excess = surplus(mine, order.limit, group=entry.group, budget=order.budget)
        for old in excess:
            self.drop(old)
        left = sum(e.size for e in mine) - sum(e.size for e in excess)
        if order.budget is not None and left > order.budget:
            self.logger.warning(
                "the checkpoints that must stay have %.1f MB, the budget is %.1f MB", left / 1e6, order.budget / 1e6
            )

    def _put_manifest(self, entry: Manifest) -> None:
        self.storage.put(f"{entry.name}.json", json.dumps(asdict(entry), indent=1).encode())

    def _fail(self, error: Exception, state: Mapping[str, Any], name: str) -> None:
        reason = _reason(error)
        self.storage.discard(name)
        free = self.storage.free()
        if free is not None:
            reason += f" (it needs {num_bytes(state) / 1e6:.1f} MB, {free / 1e6:.1f} MB are free)"
        with suppress(Exception):
            self._clear(name)
        self.lost[name] = reason
        self.failure = f"checkpoint {name} could not be written: {reason}"
        self.logger.error("%s; training goes on, earlier checkpoints are untouched", self.failure)

    def drop(self, entry: Manifest) -> None:
        """Delete a checkpoint: the manifest first. One that cannot be deleted is named, and does no more harm.

        What is without its manifest is marked as ours before, so that a kill in between leaves nothing for good.
        """
        begun = f".{entry.name}{BEGUN}"
        try:
            self.storage.put(begun, NEW)
            self.storage.remove(f"{entry.name}.json")
            self.storage.remove(entry.name)
            self.storage.remove(begun)
        except OSError as error:
            self.logger.warning("old checkpoint %s could not be deleted: %s", entry.name, _reason(error))

    def sweep(self) -> None:
        """Delete what writers have left that did not come to their end."""
        for name in self.storage.leftovers():
            with suppress(OSError):  # a remnant takes room and does no more harm
                self.storage.remove(name)
        for name in self.storage.names():
            if name.startswith(".") and name.endswith(BEGUN):
                with suppress(OSError):
                    self._clear(name[1 : -len(BEGUN)])

    def _clear(self, name: str) -> None:
        """Delete what is there under a checkpoint's name and is not in its manifest, and forget that it was begun."""
        begun = f".{name}{BEGUN}"
        entry = self._entry(f"{name}.json") if self.storage.exists(f"{name}.json") else None
        if entry is None:
            if self.storage.exists(begun) and read(self.storage, begun) == NEW:
                self.storage.remove(name)
        elif entry.files:
            wanted = {file.partition("/")[0] for file in entry.files}
            for inner in self.storage.names(name):
                if inner not in wanted:
                    self.storage.remove(f"{name}/{inner}")
        self.storage.remove(begun)

    def publish(self, name: str, keys: Sequence[str]) -> Location | None:
        """Write a checkpoint's wanted keys only, under a name that ends in a digest.

        Returns:
            Where it lies; None where there is no such checkpoint.
        """
        self.drain()
        if not self.storage.exists(name):
            return None
        location = self.storage.location(name)
        content = load_shards(load_metadata(location), location, {})
        buffer = io.BytesIO()
        torch.save({key: content[key] for key in keys if key in content}, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:8]
        published = f"{name.removesuffix('.pth')}-{digest}.pth"
        self.storage.put(published, buffer.getvalue())
        return self.storage.location(published)

    # -- reading ------------------------------------------------------------------------------------------------

    def entries(self) -> list[Manifest]:
        """The manifests that can be read, oldest save first."""
        names = [name for name in self.storage.names() if name.endswith(".pth.json") and not name.startswith(".")]
        return sorted(filter(None, map(self._entry, names)), key=lambda entry: entry.serial)

    def _entry(self, manifest: str) -> Manifest | None:
        try:
            return Manifest.from_dict(json.loads(read(self.storage, manifest)))
        except (OSError, ValueError, TypeError, AttributeError):
            self.logger.warning("manifest %s cannot be read: its checkpoint is passed over", manifest)
            return None

    def newest_own(self) -> Location | None:
        """This run's newest regular checkpoint (no ``best_...``) that is in place."""
        own = [e for e in self.entries() if e.run == self.run and not e.is_best]
        return self.storage.location(own[-1].name) if own else None

    def savers(self) -> set[str]:
        """The runs that have left something to go on from, here or where ``last_checkpoint`` leads."""
        stores = [store for store in (self, self._elsewhere()) if store is not None]
        return {entry.run for store in stores for entry in store.entries() if entry.resumable}

    def has_own(self) -> bool:
        """Whether this run has a checkpoint here."""
        return any(entry.run == self.run for entry in self.entries())

    def fault(self, entry: Manifest) -> str | None:
        """What is wrong with a checkpoint; None if it is whole."""
        files = {f"{entry.name}/{file}": ([sha], size) for file, (sha, size) in entry.files.items()}
        for name, (digests, size) in (files or {entry.name: (entry.sha256, entry.size)}).items():
            try:
                digest, found = digest_of(self.storage, name)
            except OSError as error:
                return f"{name} cannot be read ({_reason(error)})"
            if digest not in digests:
                if found != size:
                    return f"{name} has {found} bytes, its manifest says {size}"
                return f"{name} is damaged: its SHA-256 differs from its manifest's"
        return None

    def latest(self, *, start: str | None = None) -> Location | None:
        """The newest whole checkpoint that training can go on from, of the run that saved last.

        Where ``last_checkpoint`` names one in another folder (``CheckpointHook(out_dir=...)``), that folder is looked
        through first.

        Args:
            start: Only those that this start (timestamp) of the run wrote.
        """
        elsewhere = self._elsewhere()
        for store in (self,) if elsewhere is None else (elsewhere, self):
            if (found := store._newest(start)) is not None:
                return found
        return None if start is not None else self._pointed()

    def _elsewhere(self) -> CheckpointStore | None:
        """The store that ``last_checkpoint`` leads to, where it is another one."""
        try:
            text = read(self._pointer_storage, POINTER).decode().strip()
        except (OSError, UnicodeDecodeError):
            return None
        if is_uri(text):
            folder: Location = text.rpartition("/")[0]
            return (
                None if isinstance(self.storage, ObjectStorage) and folder == self.storage.uri else self._beside(folder)
            )
        if not isinstance(self._pointer_storage, LocalStorage):
            return None
        folder = Path(os.path.normpath(self._pointer_storage.path / text)).parent
        is_here = isinstance(self.storage, LocalStorage) and folder == Path(os.path.normpath(self.storage.path))
        return None if is_here or not folder.is_dir() else self._beside(folder)

    def _beside(self, folder: Location) -> CheckpointStore:
        return CheckpointStore(folder, run=self.run, start=self.start, seed=self.seed, logger=self.logger)

    def _newest(self, start: str | None) -> Location | None:
        """The newest whole checkpoint of this very folder that training can go on from."""
        entries = [e for e in self.entries() if e.resumable]
        if start is not None:
            entries = [e for e in entries if e.start == start]
        for entry in reversed(entries):
            if entry.run != entries[-1].run:
                continue
            wrong = self.fault(entry)
            if wrong is None:
                return self.storage.location(entry.name)
            self.logger.warning("checkpoint %s; trying the one before", wrong)
        return None

    def best(self, metric: str, *, greater: bool = True) -> Location | None:
        """The whole checkpoint with the best score of a metric."""
        scored = [e for e in self.entries() if metric in e.scores]
        for entry in sorted(scored, key=lambda e: e.scores[metric], reverse=greater):
            wrong = self.fault(entry)
            if wrong is None:
                return self.storage.location(entry.name)
            self.logger.warning("checkpoint %s; trying the next best", wrong)
        return None

    def _pointed(self) -> Location | None:
        """The checkpoint that ``last_checkpoint`` names: MMEngine's work dirs have no manifests."""
        try:
            text = read(self._pointer_storage, POINTER).decode().strip()
        except (OSError, UnicodeDecodeError):
            return None
        base = text.replace("\\", "/").rpartition("/")[2]
        for name in dict.fromkeys((text, base)):
            path = self._pointer_storage.location(name)
            if isinstance(path, Path) and path.is_file() and not path.with_name(f"{path.name}.json").exists():
                try:
                    read_checkpoint(path)
                except InputError as error:
                    self.logger.warning("%s; passed over", error)
                    continue
                return path
        return None


def _next(entries: list[Manifest]) -> int:
    return max((entry.serial for entry in entries), default=0) + 1


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0])
