"""Find the checkpoints of a folder or URI: the newest, the best, and the one that `last_checkpoint` names."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from raydet3d.checkpoint.completeness import find_fault, read_manifests
from raydet3d.checkpoint.manifest import SUFFIX, Manifest
from raydet3d.checkpoint.storage import LocalStorage, Location, ObjectStorage, Storage, open_storage, read
from raydet3d.config import is_uri
from raydet3d.errors import InputError
from raydet3d.log import get_logger

POINTER = "last_checkpoint"


class CheckpointCatalog:
    """The checkpoints that are in a folder or behind a URI.

    Torch is not imported: a command can inspect a work dir without it.

    Args:
        path: The folder, or its URI.
        logger: Logger for broken checkpoints.
        pointer_dir: Folder of the `last_checkpoint` file; `path` by default.
    """

    def __init__(
        self, path: Location, *, logger: logging.Logger | None = None, pointer_dir: Location | None = None
    ) -> None:
        self.storage: Storage = open_storage(path)
        self.home = path
        self.logger = logger or get_logger()
        self.pointer_storage = self.storage if pointer_dir in (None, path) else open_storage(pointer_dir)

    def location(self, manifest: Manifest) -> Location:
        """Return where a checkpoint lies."""
        return self.storage.location(manifest.name)

    def manifests(self) -> list[Manifest]:
        """Return the manifests in this folder, oldest save first."""
        return read_manifests(self.storage, self.logger)

    def find(self, is_wanted: Callable[[Manifest], bool]) -> Manifest | None:
        """Return the newest complete checkpoint in this folder that is wanted; broken ones are named and skipped."""
        return self._first_complete([m for m in reversed(self.manifests()) if is_wanted(m)], "the one before")

    def _first_complete(self, manifests: list[Manifest], next_one: str) -> Manifest | None:
        for manifest in manifests:
            fault = find_fault(self.storage, manifest)
            if fault is None:
                return manifest
            self.logger.warning("checkpoint %s; trying %s", fault, next_one)
        return None

    def latest(self, *, run: str | None = None, start: str | None = None) -> Location | None:
        """Return the newest complete checkpoint that a run can resume from.

        Where `last_checkpoint` names one in another folder (`CheckpointHook(out_dir=...)`), that folder is searched
        first.

        Args:
            run: Only those of this run; of the run that saved last, by default.
            start: Only those that this start (timestamp) of the run wrote.
        """
        for one in self.with_elsewhere():
            resumable = [m for m in one.manifests() if m.resumable and (start is None or m.start == start)]
            wanted = run if run is not None else resumable[-1].run if resumable else None
            found = one._first_complete([m for m in reversed(resumable) if m.run == wanted], "the one before")
            if found is not None:
                return one.location(found)
        return self._without_manifest() if start is None and run is None else None

    def best(self, metric: str, *, greater: bool = True) -> Location | None:
        """Return the complete checkpoint with the best score of a metric."""
        scored = [m for m in self.manifests() if metric in m.scores]
        found = self._first_complete(sorted(scored, key=lambda m: m.scores[metric], reverse=greater), "the next best")
        return None if found is None else self.location(found)

    # -- the pointer --------------------------------------------------------------------------------------------

    def point_to(self, name: str) -> None:
        """Let `last_checkpoint` name a checkpoint of this folder."""
        target = self.storage.location(name)
        if isinstance(target, Path) and isinstance(self.pointer_storage, LocalStorage):
            target = os.path.relpath(target, self.pointer_storage.path)
        elif self.pointer_storage is self.storage:
            target = name
        self.pointer_storage.put(POINTER, str(target).encode())

    def pointer(self) -> str:
        """Return what `last_checkpoint` says; nothing where it is missing or damaged."""
        with suppress(OSError, UnicodeDecodeError):
            text = read(self.pointer_storage, POINTER).decode().strip()
            return "" if "\0" in text else text
        return ""

    def elsewhere(self) -> CheckpointCatalog | None:
        """Return the folder that `last_checkpoint` leads to, where it is another one."""
        text = self.pointer()
        if is_uri(text):
            uri = text.rpartition("/")[0]
            is_here = isinstance(self.storage, ObjectStorage) and uri == self.storage.uri
            with suppress(InputError):  # damaged
                return None if is_here else self.at(uri)
        elif text and isinstance(self.pointer_storage, LocalStorage):
            folder = Path(os.path.normpath(self.pointer_storage.path / text)).parent
            is_here = isinstance(self.storage, LocalStorage) and folder == Path(os.path.normpath(self.storage.path))
            return None if is_here or not os.path.isdir(folder) else self.at(folder)
        return None

    def with_elsewhere(self) -> list[CheckpointCatalog]:
        """Return this folder, and before it the one that `last_checkpoint` leads to, where that is another one."""
        elsewhere = self.elsewhere()
        return [self] if elsewhere is None else [elsewhere, self]

    def at(self, folder: Location, *, pointer_dir: Location | None = None) -> CheckpointCatalog:
        """Return the catalog of another folder."""
        return CheckpointCatalog(folder, logger=self.logger, pointer_dir=pointer_dir)

    def _without_manifest(self) -> Location | None:
        """Return the checkpoint that `last_checkpoint` names: MMEngine's work dirs have no manifests."""
        from raydet3d.checkpoint.safe_load import read_checkpoint

        text = self.pointer()
        for name in dict.fromkeys((text, text.replace("\\", "/").rpartition("/")[2])):
            path = self.pointer_storage.location(name)
            if name and isinstance(path, Path) and os.path.isfile(path) and not os.path.exists(f"{path}{SUFFIX}"):
                try:
                    read_checkpoint(path)
                    return path
                except InputError as error:
                    self.logger.warning("%s; it is not used", error)
        return None
