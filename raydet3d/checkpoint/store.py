"""`CheckpointStore`: save and delete the checkpoints of a run; everything that asks what is on disk asks it.

A checkpoint is a file and its manifest, `epoch_3.pth` and `epoch_3.pth.json`. The file is written beside its place,
synced and renamed; the manifest comes last, so a file without one does not exist. Only then is an older one deleted.
A state whose tensors are sharded over the ranks becomes a folder, `epoch_3.pth/`, under the same rules: what its
manifest does not list is not in it.

Checkpoints of another run in the same folder are never overwritten or deleted (see `earlier_runs.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, cast

from raydet3d import __version__
from raydet3d.checkpoint.catalog import CheckpointCatalog
from raydet3d.checkpoint.completeness import begun_mark, read_manifest
from raydet3d.checkpoint.earlier_runs import EARLIER, set_aside_other_runs
from raydet3d.checkpoint.manifest import SUFFIX, Manifest, text_digest
from raydet3d.checkpoint.retention import select_of_run
from raydet3d.checkpoint.storage import Location, read, reason_of

if TYPE_CHECKING:
    from raydet3d.checkpoint.sharded import Ranks
    from raydet3d.checkpoint.staging import HostStaging

NEW = b"new"  # content of the mark of a file that this run writes, and that did not exist before


@dataclass(frozen=True, kw_only=True)
class _SaveRequest:
    """One save: the manifest so far, and the options."""

    manifest: Manifest
    limit: int
    budget: int | None
    point: bool


class CheckpointStore(CheckpointCatalog):
    """The checkpoints in a folder or behind a URI. Only rank 0's store writes, unless the state is sharded.

    Args:
        path: The folder, or its URI.
        run: Name of the run, for the manifests.
        start: Timestamp of this start.
        seed: The run's seed.
        logger: Logger for broken checkpoints and failed writes.
        pointer_dir: Folder of the `last_checkpoint` file; `path` by default.

    Attributes:
        keep_other_runs: Whether checkpoints of other runs are moved aside before the first save.
        failure: Why the last save failed, or None.
        lost: Why each checkpoint that could not be written is missing.
        after_write: Called when a checkpoint is in place.
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
        super().__init__(path, logger=logger, pointer_dir=pointer_dir)
        self.run, self.start, self.seed = run, start, seed
        self.keep_other_runs = True
        self.failure: str | None = None
        self.lost: dict[str, str] = {}
        self.after_write: Callable[[], None] | None = None
        self._staging: HostStaging | None = None
        self._ranks: Ranks | None = None  # of a sharded model, once it is saved
        self._thread: threading.Thread | None = None
        self._has_set_aside = False
        self._lost_steps: dict[str, int] = {}  # of regular checkpoints

    # -- this run's checkpoints ---------------------------------------------------------------------------------

    def newest_own(self) -> Location | None:
        """Return this run's newest regular checkpoint (no `best_...`)."""
        own = [m for m in self.manifests() if m.run == self.run and not m.is_best]
        return self.location(own[-1]) if own else None

    def has_own(self) -> bool:
        """Return whether this run has a checkpoint here."""
        return any(m.run == self.run for m in self.manifests())

    def has_lost(self, step: int) -> bool:
        """Return whether a regular checkpoint of this step, or of a later one, could not be written."""
        return any(lost >= step for lost in self._lost_steps.values())

    def publish(self, name: str, keys: Sequence[str]) -> Location | None:
        """Write only the wanted keys, under a name that ends in a digest; None where there is no checkpoint."""
        from raydet3d.checkpoint.published_file import write_published

        self.drain()
        return write_published(self.storage, name, keys) if self.storage.exists(name) else None

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
            resumable: Whether a run can resume from it.
        """
        import torch

        from raydet3d.checkpoint.nested import is_sharded
        from raydet3d.checkpoint.staging import HostStaging

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
        self._staging = self._staging or HostStaging()
        copy = self._staging.take(state)
        arguments = (copy, request, self._ranks if sharded else None)
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint-writer")
        self._thread.start()
        return self.storage.location(name)

    def drain(self) -> None:
        """Wait until the last save is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: dict[str, Any], request: _SaveRequest, ranks: Ranks | None) -> None:
        """Write a state to its place, commit it by its manifest, and delete what is too much then."""
        assert self._staging is not None
        try:
            self._staging.wait()
            if ranks is None:
                self._finish(*self._write_file(state, request.manifest), request)
            elif (written := self._write_shards(state, request.manifest, ranks)) is not None:
                self._finish(*written, request)
        except Exception as error:  # noqa: BLE001 - the thread ends here: what is not told to the run is lost
            if ranks is None or ranks.rank == 0:
                self._fail(error, state, request.manifest)

    def _write_file(self, state: dict[str, Any], manifest: Manifest) -> tuple[Manifest, list[Manifest]]:
        """Write a state as one file.

        Returns:
            Its manifest, and those that were there.
        """
        import torch

        name = manifest.name
        manifests = self._begin(name, is_sharded=False)
        is_foreign = self._is_foreign(name, manifests)
        self._mark(name)
        digest, size = self.storage.prepare(name, lambda file: torch.save(state, cast("IO[bytes]", file)))
        for old in manifests:
            if old.name == name:  # replaced by one of its name: at no moment may there be neither
                self._put_manifest(replace(old, sha256=[*old.sha256, digest]))
        if is_foreign:
            self._set_aside_foreign(name)
        self.storage.commit(name)
        return replace(manifest, sha256=[digest], size=size, serial=_next_serial(manifests)), manifests

    def _write_shards(
        self, state: dict[str, Any], manifest: Manifest, ranks: Ranks
    ) -> tuple[Manifest, list[Manifest]] | None:
        """Write this rank's shards.

        Returns:
            On rank 0, the manifest of all ranks' shards and those that were there; None on the others.
        """
        name, is_first = manifest.name, ranks.rank == 0
        manifests: list[Manifest] = []
        failure: Exception | None = None
        if is_first:
            try:
                manifests = self._begin(name, is_sharded=True)
                if self._is_foreign(name, manifests):
                    self._set_aside_foreign(name)
                self._mark(name)
            except Exception as error:  # noqa: BLE001 - the other ranks wait for the outcome
                failure = error
        serial = ranks.agree(None if failure else _next_serial(manifests))
        if serial is None:
            raise failure or OSError("rank 0 could not begin it")
        files = ranks.write(state, self.storage, name, str(serial))
        size = sum(size for _, size in files.values())
        done = replace(manifest, size=size, serial=serial, files=files, world_size=ranks.world_size)
        return (done, manifests) if is_first else None

    def _begin(self, name: str, *, is_sharded: bool) -> list[Manifest]:
        """Make room for a checkpoint's name, and return the manifests that are there."""
        if self.keep_other_runs and not self._has_set_aside:
            set_aside_other_runs(self, self.run)
            self._has_set_aside = True
        manifests = self.manifests()
        for old in manifests:
            if old.name == name and bool(old.files) != is_sharded:  # a file cannot take a folder's place
                self.delete(old)
        return manifests

    def _mark(self, name: str) -> None:
        """Mark what is about to be written under a name as this run's."""
        self.storage.put(begun_mark(name), b"" if self.storage.exists(name) else NEW)

    def _is_foreign(self, name: str, manifests: Sequence[Manifest]) -> bool:
        """Return whether a file that is not ours to overwrite, without a manifest, has a name."""
        is_known = any(m.name == name for m in manifests) or self.storage.exists(begun_mark(name))
        return self.keep_other_runs and not is_known and self.storage.exists(name)

    def _set_aside_foreign(self, name: str) -> None:
        self.logger.warning("%s has no manifest: it is kept in %s/unknown", name, EARLIER)
        self.storage.move(name, f"{EARLIER}/unknown/{name}")

    def _finish(self, manifest: Manifest, manifests: Sequence[Manifest], request: _SaveRequest) -> None:
        """Commit by the manifest, point to it, and delete what is too much now."""
        self._put_manifest(manifest)
        self._clear(manifest.name)
        if request.point:
            self.point_to(manifest.name)
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

    def _fail(self, error: Exception, state: Mapping[str, Any], manifest: Manifest) -> None:
        from raydet3d.checkpoint.nested import num_bytes

        name, reason = manifest.name, reason_of(error)
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
        self.logger.error("%s; training continues, earlier checkpoints are untouched", self.failure)

    # -- deleting -----------------------------------------------------------------------------------------------

    def delete(self, manifest: Manifest) -> None:
        """Delete a checkpoint, its manifest first. A failure is logged and does no more harm.

        A file without its manifest is marked as this run's before, so that a kill in between leaves nothing for good.
        """
        name, mark = manifest.name, begun_mark(manifest.name)
        try:
            self.storage.put(mark, NEW)
            for file in (name + SUFFIX, name, mark):
                self.storage.remove(file)
        except OSError as error:
            self.logger.warning("old checkpoint %s could not be deleted: %s", name, reason_of(error))

    def clean_up(self) -> None:
        """Delete what interrupted writers have left."""
        for name in self.storage.leftovers():
            with suppress(OSError):  # it takes room and does no more harm
                self.storage.remove(name)
        head, tail = begun_mark("*").split("*")
        marks = [name for name in self.storage.names() if name.startswith(head) and name.endswith(tail)]
        if marks:
            self.manifests()  # makes those anew that a kill has torn
        for mark in marks:
            with suppress(OSError):
                self._clear(mark.removeprefix(head).removesuffix(tail))

    def _clear(self, name: str) -> None:
        """Delete what lies under a checkpoint's name and is not in its manifest, and the mark that it was begun."""
        mark = begun_mark(name)
        manifest: Manifest | None = None
        with suppress(OSError, ValueError):
            manifest = read_manifest(self.storage, name)
        if manifest is None:
            is_torn = self.storage.exists(name + SUFFIX)
            if is_torn or (self.storage.exists(mark) and read(self.storage, mark) == NEW):
                self.storage.remove(name + SUFFIX)
                self.storage.remove(name)
        elif manifest.files:
            wanted = {file.partition("/")[0] for file in manifest.files}
            for inner in self.storage.names(name):
                if inner not in wanted:
                    self.storage.remove(f"{name}/{inner}")
        self.storage.remove(mark)


def _next_serial(manifests: Sequence[Manifest]) -> int:
    return max((m.serial for m in manifests), default=0) + 1
