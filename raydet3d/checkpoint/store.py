"""`CheckpointStore`: saves, finds and deletes the checkpoints of a run; everything that asks what is on disk asks it.

A checkpoint is a file and its manifest, `epoch_3.pth` and `epoch_3.pth.json`. The file is written beside its place,
synced and renamed; the manifest comes last, so a file without one does not exist. Only then is an older one deleted.
A state whose tensors are sharded over the ranks becomes a folder, `epoch_3.pth/`, under the same rules: what its
manifest does not list is not in it.

Checkpoints of another run in the same folder are never overwritten or deleted. Before a run writes its first checkpoint
there, those of other runs move to `earlier_runs/RUN/`, from where `bring_back` takes them when that run goes on.

Torch is imported only by what reads or writes tensors: a command can inspect a work dir without it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from raydet3d import __version__
from raydet3d.checkpoint.manifest import SUFFIX, Manifest, text_digest
from raydet3d.checkpoint.recovery import recover_manifest
from raydet3d.checkpoint.retention import select_of_run
from raydet3d.checkpoint.storage import LocalStorage, Location, ObjectStorage, Storage, digest_of, open_storage, read
from raydet3d.config import is_uri
from raydet3d.errors import InputError
from raydet3d.log import get_logger

if TYPE_CHECKING:
    from raydet3d.checkpoint.sharded import Ranks
    from raydet3d.checkpoint.staging import HostStaging

POINTER = "last_checkpoint"
EARLIER = "earlier_runs"
BEGUN, NEW = ".begun", b"new"


@dataclass(frozen=True, kw_only=True)
class _SaveRequest:
    """One save: the manifest so far, and the options."""

    manifest: Manifest
    limit: int
    budget: int | None
    point: bool


class CheckpointStore:
    """The checkpoints in a folder or behind a URI. Only rank 0's store writes, unless the state is sharded.

    Args:
        path: The folder, or its URI.
        run: Name of the run, for the manifests.
        start: Timestamp of this start.
        seed: The run's seed.
        logger: Logger for broken checkpoints and failed writes.
        pointer_dir: Folder of the `last_checkpoint` file; `path` by default.
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
        self.logger = logger or get_logger()
        self._pointer_storage = self.storage if pointer_dir in (None, path) else open_storage(pointer_dir)
        self._staging: HostStaging | None = None
        self._ranks: Ranks | None = None  # of a sharded model, once it is saved
        self._thread: threading.Thread | None = None
        self._has_set_aside = False
        self._foreign: str | None = None  # a file without a manifest in the place of the checkpoint being written
        self.keep_other_runs = True  # whether checkpoints of other runs are moved aside before the first save
        self.failure: str | None = None  # of the last save
        self.after_write: Callable[[], None] | None = None  # called when a checkpoint is in place
        self.lost: dict[str, str] = {}  # why each checkpoint that could not be written is missing
        self._lost_steps: dict[str, int] = {}  # their steps, of regular checkpoints

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
        """Save a checkpoint: copy it to host memory and return; a thread writes it.

        Every rank calls it for a sharded state, rank 0 alone otherwise.

        Args:
            state: What to save.
            name: File name.
            step: Finished iterations.
            group: Group that `limit` counts.
            scores: Metrics to note in the manifest.
            limit: How many of the group to keep; the older ones of this run are deleted once this one is safe.
            budget: Bytes that this run's checkpoints may have here together (see `select_of_run`).
            milestone: Whether it stays whatever `limit` says.
            point: Whether `last_checkpoint` names it then.
            resumable: Whether training can go on from it.
        """
        import torch

        from raydet3d.checkpoint.staging import HostStaging, is_sharded

        self.drain()  # one in flight at a time
        sharded = is_sharded(state)
        if sharded and self._ranks is None:
            from raydet3d.checkpoint.sharded import Ranks  # imports half of torch.distributed

            self._ranks = Ranks()
        manifest = Manifest(
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
            config=text_digest(str(state.get("meta", {}).get("cfg", ""))),
            resumable=resumable,
            milestone=milestone,
        )
        request = _SaveRequest(manifest=manifest, limit=limit, budget=budget, point=point)
        if self._staging is None:
            self._staging = HostStaging()
        copy = self._staging.take(state)
        target = self._write_shards if sharded else self._write
        self._thread = threading.Thread(target=target, args=(copy, request), name="checkpoint-writer")
        self._thread.start()
        return self.storage.location(name)

    def drain(self) -> None:
        """Wait until the last save is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: dict[str, Any], request: _SaveRequest) -> None:
        import torch

        assert self._staging is not None
        name = request.manifest.name
        try:
            self._staging.wait()
            manifests = self._begin(name, is_sharded=False)
            digest, size = self.storage.prepare(name, lambda file: torch.save(state, cast("IO[bytes]", file)))
            before = [m for m in manifests if m.name == name]
            if before:  # replaced by one of its name: at no moment may there be neither
                self._put_manifest(replace(before[0], sha256=[*before[0].sha256, digest]))
            self._set_aside_foreign()
            self.storage.commit(name)
            manifest = replace(request.manifest, sha256=[digest], size=size, serial=_next_serial(manifests))
            self._finish(manifest, manifests, request)
        except Exception as error:  # noqa: BLE001 - the thread ends here: what is not told to the run is lost
            self._fail(error, state, request.manifest)

    def _write_shards(self, state: dict[str, Any], request: _SaveRequest) -> None:
        """Write this rank's shards; rank 0 collects what the others say and commits."""
        assert self._ranks is not None
        assert self._staging is not None
        name, is_first = request.manifest.name, self._ranks.rank == 0
        manifests: list[Manifest] = []
        try:
            self._staging.wait()
            failure: Exception | None = None
            if is_first:
                try:
                    manifests = self._begin(name, is_sharded=True)
                except Exception as error:  # noqa: BLE001 - the others wait to hear of it
                    failure = error
            serial = self._ranks.agree(None if failure else _next_serial(manifests))
            if serial is None:
                raise failure or OSError("rank 0 could not begin it")
            files = self._ranks.write(state, self.storage, name, str(serial))
            if is_first:
                size = sum(size for _, size in files.values())
                world = self._ranks.world_size
                listed = {path: (str(digest), int(count)) for path, (digest, count) in files.items()}
                manifest = replace(request.manifest, size=size, serial=serial, files=listed, world_size=world)
                self._finish(manifest, manifests, request)
        except Exception as error:  # noqa: BLE001 - as above
            if is_first:
                self._fail(error, state, request.manifest)

    def _begin(self, name: str, *, is_sharded: bool) -> list[Manifest]:
        """Make room for a checkpoint's name, and mark what is about to be written as this run's.

        Returns:
            The manifests that are there.
        """
        self.set_aside_other_runs()
        manifests = self.manifests()
        same = [m for m in manifests if m.name == name]
        for old in same:
            if bool(old.files) != is_sharded:  # a file cannot take a folder's place
                self.delete(old)
        begun = f".{name}{BEGUN}"
        is_foreign = not same and self.storage.exists(name) and not self.storage.exists(begun)
        self._foreign = name if is_foreign and self.keep_other_runs else None
        if is_sharded:
            self._set_aside_foreign()
        self.storage.put(begun, b"" if self.storage.exists(name) else NEW)
        return manifests

    def _set_aside_foreign(self) -> None:
        """Move a file that is in the way and has no manifest: it is not ours to overwrite."""
        if self._foreign is not None:
            self.logger.warning("%s has no manifest: it is kept in %s/unknown", self._foreign, EARLIER)
            self.storage.move(self._foreign, f"{EARLIER}/unknown/{self._foreign}")
            self._foreign = None

    def _finish(self, manifest: Manifest, manifests: list[Manifest], request: _SaveRequest) -> None:
        """Commit by the manifest, point to it, and delete what is too much now."""
        self._put_manifest(manifest)
        self._clear(manifest.name)
        if request.point:
            self._point(manifest.name)
        self.failure = None
        self.lost.pop(manifest.name, None)
        self._lost_steps.pop(manifest.name, None)
        if self.after_write is not None:
            self.after_write()
        own = [m for m in manifests if m.name != manifest.name and m.run == self.run] + [manifest]
        excess = select_of_run(own, request.limit, group=manifest.group, budget=request.budget)
        for old in excess:
            self.delete(old)
        left = sum(m.size for m in own) - sum(m.size for m in excess)
        if request.budget is not None and left > request.budget:
            self.logger.warning(
                "the checkpoints that must stay have %.1f MB, the budget is %.1f MB", left / 1e6, request.budget / 1e6
            )

    def _put_manifest(self, manifest: Manifest) -> None:
        self.storage.put(manifest.name + SUFFIX, manifest.to_json())

    def _point(self, name: str) -> None:
        """Let `last_checkpoint` name a checkpoint of this folder."""
        target = self.storage.location(name)
        if isinstance(target, Path) and isinstance(self._pointer_storage, LocalStorage):
            target = os.path.relpath(target, self._pointer_storage.path)
        elif self._pointer_storage is self.storage:
            target = name
        self._pointer_storage.put(POINTER, str(target).encode())

    def _fail(self, error: Exception, state: Mapping[str, Any], manifest: Manifest) -> None:
        from raydet3d.checkpoint.staging import num_bytes

        name, reason = manifest.name, _reason(error)
        self.storage.discard(name)
        free = self.storage.free()
        if free is not None:
            reason += f" (it needs {num_bytes(state) / 1e6:.1f} MB, {free / 1e6:.1f} MB are free)"
        with suppress(Exception):
            self._clear(name)
        self.lost[name] = reason
        if not manifest.is_best:
            self._lost_steps[name] = manifest.step
        self.failure = f"checkpoint {name} could not be written: {reason}"
        self.logger.error("%s; training goes on, earlier checkpoints are untouched", self.failure)

    def has_lost(self, step: int) -> bool:
        """Whether a regular checkpoint of this step, or of a later one, could not be written."""
        return any(lost >= step for lost in self._lost_steps.values())

    def delete(self, manifest: Manifest) -> None:
        """Delete a checkpoint, its manifest first. A failure is logged and does no more harm.

        A file without its manifest is marked as this run's before, so that a kill in between leaves nothing for good.
        """
        name, begun = manifest.name, f".{manifest.name}{BEGUN}"
        try:
            self.storage.put(begun, NEW)
            self.storage.remove(name + SUFFIX)
            self.storage.remove(name)
            self.storage.remove(begun)
        except OSError as error:
            self.logger.warning("old checkpoint %s could not be deleted: %s", name, _reason(error))

    def clean_up(self) -> None:
        """Delete what interrupted writers have left."""
        for name in self.storage.leftovers():
            with suppress(OSError):  # it takes room and does no more harm
                self.storage.remove(name)
        begun = [name for name in self.storage.names() if name.startswith(".") and name.endswith(BEGUN)]
        if begun:
            self.manifests()  # makes those anew that a kill has torn
        for name in begun:
            with suppress(OSError):
                self._clear(name[1 : -len(BEGUN)])

    def _clear(self, name: str) -> None:
        """Delete what lies under a checkpoint's name and is not in its manifest, and the mark that it was begun."""
        begun = f".{name}{BEGUN}"
        manifest: Manifest | None = None
        with suppress(OSError, ValueError):
            manifest = self._read_manifest(name)
        if manifest is None:
            is_torn = self.storage.exists(name + SUFFIX)
            if is_torn or (self.storage.exists(begun) and read(self.storage, begun) == NEW):
                self.storage.remove(name + SUFFIX)
                self.storage.remove(name)
        elif manifest.files:
            wanted = {file.partition("/")[0] for file in manifest.files}
            for inner in self.storage.names(name):
                if inner not in wanted:
                    self.storage.remove(f"{name}/{inner}")
        self.storage.remove(begun)

    def publish(self, name: str, keys: Sequence[str]) -> Location | None:
        """Write only the wanted keys, under a name that ends in a digest; None where there is no checkpoint."""
        from raydet3d.checkpoint.publish import write_published

        self.drain()
        return write_published(self.storage, name, keys) if self.storage.exists(name) else None

    # -- other runs ---------------------------------------------------------------------------------------------

    def set_aside_other_runs(self) -> None:
        """Move the checkpoints of other runs to `earlier_runs/RUN/`; once a store.

        The file goes first and its manifest last: after a kill in between, the same call (or `bring_back`) completes
        the move.
        """
        if self._has_set_aside or not self.keep_other_runs:
            return
        pointed = self._pointer_text().rpartition("/")[2]
        moved: dict[str, list[str]] = {}
        for manifest in self.manifests():
            if manifest.run == self.run:
                continue
            folder = f"{EARLIER}/{folder_of(manifest.run)}"
            for name in (manifest.name, manifest.name + SUFFIX):
                if self.storage.exists(name):
                    self.storage.move(name, f"{folder}/{name}")
            moved.setdefault(folder, []).append(manifest.name)
        for folder, names in moved.items():
            if pointed in names:
                pointer_dir = self._pointer_storage.location(folder)
                CheckpointStore(self.storage.location(folder), pointer_dir=pointer_dir)._point(pointed)
                self._pointer_storage.remove(POINTER)
            self.logger.info("checkpoints of another run are kept in %s", self.storage.location(folder))
        self._has_set_aside = True

    def earlier_runs(self) -> list[CheckpointStore]:
        """The stores of runs whose checkpoints were moved aside."""
        return [self._beside(self.storage.location(f"{EARLIER}/{name}")) for name in self.storage.names(EARLIER)]

    def bring_back(self, run: str) -> None:
        """Move a run's checkpoints back from `earlier_runs/`, and those of other runs there; nothing if there are none.

        Args:
            run: Name of the run.
        """
        folder = f"{EARLIER}/{folder_of(run)}"
        if not self.storage.exists(folder):
            return
        elsewhere = self._beside(self.storage.location(folder))._elsewhere()
        pointer = self.storage.exists(f"{folder}/{POINTER}")
        if elsewhere is not None:  # CheckpointHook(out_dir=...)
            root = _grandparent(elsewhere.home)
            self._sibling(root, run)._restore(folder)
        store = self._sibling(self.home, run)
        store._restore(folder)
        if pointer:
            target = store if elsewhere is None else self._sibling(_grandparent(elsewhere.home), run)
            own = [m for m in target.manifests() if m.run == run and m.resumable]
            if own:
                target._point(own[-1].name)

    def _sibling(self, folder: Location, run: str) -> CheckpointStore:
        return CheckpointStore(folder, run=run, logger=self.logger, pointer_dir=self.home)

    def _restore(self, folder: str) -> None:
        self.set_aside_other_runs()
        for name in self.storage.names(folder):  # sorted: a file comes before its manifest
            if name != POINTER:
                self.storage.move(f"{folder}/{name}", name)
        self.storage.remove(folder)
        if not self.storage.names(EARLIER):
            self.storage.remove(EARLIER)

    # -- reading ------------------------------------------------------------------------------------------------

    def location(self, manifest: Manifest) -> Location:
        """Where a checkpoint lies."""
        return self.storage.location(manifest.name)

    def manifests(self) -> list[Manifest]:
        """The manifests in this folder, oldest save first.

        A damaged one is named and set aside; where its checkpoint is whole, a new one is made from that.
        """
        found: list[Manifest] = []
        damaged: list[tuple[str, str]] = []
        for file in self.storage.names():
            if not file.endswith(".pth" + SUFFIX) or file.startswith("."):
                continue
            name = file.removesuffix(SUFFIX)
            try:
                found.append(self._read_manifest(name))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError) as error:
                damaged.append((name, _reason(error)))
        for name, reason in damaged:
            is_torn = self.storage.exists(
                f".{name}{BEGUN}"
            )  # by a kill, where writes are not atomic: no damage to keep
            if not is_torn:
                with suppress(OSError):
                    self.storage.move(name + SUFFIX, f"{name}{SUFFIX}.damaged")
            recovered = recover_manifest(self.storage, name, found)
            if recovered is not None:
                found.append(recovered)
                with suppress(OSError):
                    self._put_manifest(recovered)
            if is_torn:
                continue
            self.logger.warning(
                "manifest %s%s is damaged (%s): it is kept as %s%s.damaged, and %s",
                name,
                SUFFIX,
                reason,
                name,
                SUFFIX,
                "its checkpoint is not used" if recovered is None else "a new one was made from its checkpoint",
            )
        return sorted(found, key=lambda manifest: (manifest.serial, manifest.step))

    def _read_manifest(self, name: str) -> Manifest:
        return Manifest.from_json(read(self.storage, name + SUFFIX), name)

    def newest_own(self) -> Location | None:
        """This run's newest regular checkpoint (no `best_...`)."""
        own = [m for m in self.manifests() if m.run == self.run and not m.is_best]
        return self.location(own[-1]) if own else None

    def has_own(self) -> bool:
        """Whether this run has a checkpoint here."""
        return any(m.run == self.run for m in self.manifests())

    def verify(self, manifest: Manifest) -> str | None:
        """What is wrong with a checkpoint; None if it is whole.

        A file is read only where its size or its modification time leaves doubt: it has another size than the manifest
        says, or was changed after the manifest was written.
        """
        files = {f"{manifest.name}/{file}": ([sha], size) for file, (sha, size) in manifest.files.items()}
        for name, (digests, size) in (files or {manifest.name: (manifest.sha256, manifest.size)}).items():
            try:
                written = self.storage.stat(manifest.name + SUFFIX)[1]
                found, changed = self.storage.stat(name)
                if found == size and changed < written and len(digests) == 1:
                    continue
                digest, found = digest_of(self.storage, name)
            except OSError as error:
                return f"{name} cannot be read ({_reason(error)})"
            if digest not in digests:
                if found != size:
                    return f"{name} has {found} bytes, its manifest says {size}"
                return f"{name} is damaged: its SHA-256 differs from its manifest's"
        return None

    def find(self, is_wanted: Callable[[Manifest], bool]) -> Manifest | None:
        """The newest whole checkpoint in this folder that is wanted; broken ones are named and passed over."""
        for manifest in reversed(self.manifests()):
            if not is_wanted(manifest):
                continue
            wrong = self.verify(manifest)
            if wrong is None:
                return manifest
            self.logger.warning("checkpoint %s; trying the one before", wrong)
        return None

    def latest(self, *, run: str | None = None, start: str | None = None) -> Location | None:
        """The newest whole checkpoint that training can go on from.

        Where `last_checkpoint` names one in another folder (`CheckpointHook(out_dir=...)`), that folder is searched
        first.

        Args:
            run: Only those of this run; of the run that saved last, by default.
            start: Only those that this start (timestamp) of the run wrote.
        """
        for store in self.with_elsewhere():
            resumable = [m for m in store.manifests() if m.resumable and (start is None or m.start == start)]
            wanted = run if run is not None else resumable[-1].run if resumable else None
            names = {m.name for m in resumable if m.run == wanted}
            found = store.find(lambda m, names=names: m.name in names)  # type: ignore[misc]
            if found is not None:
                return store.location(found)
        return self._pointed() if start is None and run is None else None

    def with_elsewhere(self) -> list[CheckpointStore]:
        """This store, and before it the one that `last_checkpoint` leads to, where that is another one."""
        elsewhere = self._elsewhere()
        return [self] if elsewhere is None else [elsewhere, self]

    def best(self, metric: str, *, greater: bool = True) -> Location | None:
        """The whole checkpoint with the best score of a metric."""
        scored = [m for m in self.manifests() if metric in m.scores]
        for manifest in sorted(scored, key=lambda m: m.scores[metric], reverse=greater):
            wrong = self.verify(manifest)
            if wrong is None:
                return self.location(manifest)
            self.logger.warning("checkpoint %s; trying the next best", wrong)
        return None

    def _pointer_text(self) -> str:
        try:
            return read(self._pointer_storage, POINTER).decode().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def _elsewhere(self) -> CheckpointStore | None:
        """The store that `last_checkpoint` leads to, where it is another one."""
        text = self._pointer_text()
        if not text or "\0" in text:
            return None
        if is_uri(text):
            folder: Location = text.rpartition("/")[0]
            is_here = isinstance(self.storage, ObjectStorage) and folder == self.storage.uri
            with suppress(InputError):  # damaged
                return None if is_here else self._beside(folder)
            return None
        if not isinstance(self._pointer_storage, LocalStorage):
            return None
        folder = Path(os.path.normpath(self._pointer_storage.path / text)).parent
        is_here = isinstance(self.storage, LocalStorage) and folder == Path(os.path.normpath(self.storage.path))
        return None if is_here or not os.path.isdir(folder) else self._beside(folder)

    def _beside(self, folder: Location) -> CheckpointStore:
        return CheckpointStore(folder, run=self.run, start=self.start, seed=self.seed, logger=self.logger)

    def _pointed(self) -> Location | None:
        """The checkpoint that `last_checkpoint` names: MMEngine's work dirs have no manifests."""
        from raydet3d.checkpoint.safe_load import read_checkpoint

        text = self._pointer_text()
        base = text.replace("\\", "/").rpartition("/")[2]
        for name in dict.fromkeys((text, base)):
            if not name or "\0" in name:
                continue
            path = self._pointer_storage.location(name)
            if isinstance(path, Path) and os.path.isfile(path) and not os.path.exists(f"{path}{SUFFIX}"):
                try:
                    read_checkpoint(path)
                except InputError as error:
                    self.logger.warning("%s; passed over", error)
                    continue
                return path
        return None


def folder_of(run: str) -> str:
    """Name of a run's folder in `earlier_runs/`."""
    return re.sub(r"[^\w.-]", "_", run) or "unnamed"


def _grandparent(folder: Location) -> Location:
    return folder.parent.parent if isinstance(folder, Path) else folder.rsplit("/", 2)[0]


def _next_serial(manifests: Sequence[Manifest]) -> int:
    return max((m.serial for m in manifests), default=0) + 1


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0])
