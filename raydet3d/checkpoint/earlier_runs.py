"""Keep the checkpoints of other runs in the same folder: they move to `earlier_runs/RUN/`, and back on resume.

The file goes first and its manifest last: after a kill in between, the same call completes the move.
"""

from __future__ import annotations

import re
from pathlib import Path

from raydet3d.checkpoint.catalog import POINTER, CheckpointCatalog
from raydet3d.checkpoint.manifest import SUFFIX
from raydet3d.checkpoint.storage import Location

EARLIER = "earlier_runs"


def find_earlier_runs(home: CheckpointCatalog) -> list[CheckpointCatalog]:
    """Return the folders of runs whose checkpoints were moved aside."""
    return [home.at(home.storage.location(f"{EARLIER}/{name}")) for name in home.storage.names(EARLIER)]


def set_aside_other_runs(home: CheckpointCatalog, run: str) -> None:
    """Move the checkpoints of other runs to `earlier_runs/RUN/`.

    Args:
        home: The folder.
        run: The run whose checkpoints stay.
    """
    pointed = home.pointer().rpartition("/")[2]
    moved: dict[str, list[str]] = {}
    for manifest in home.manifests():
        if manifest.run == run:
            continue
        folder = _folder_of(manifest.run)
        for name in (manifest.name, manifest.name + SUFFIX):
            if home.storage.exists(name):
                home.storage.move(name, f"{folder}/{name}")
        moved.setdefault(folder, []).append(manifest.name)
    for folder, names in moved.items():
        target = home.storage.location(folder)
        if pointed in names:
            home.at(target, pointer_dir=home.pointer_storage.location(folder)).point_to(pointed)
            home.pointer_storage.remove(POINTER)
        home.logger.info("checkpoints of another run are kept in %s", target)


def bring_back(home: CheckpointCatalog, run: str) -> None:
    """Move a run's checkpoints back from `earlier_runs/`, and those of other runs there; nothing if there are none.

    Args:
        home: The work dir.
        run: Name of the run.
    """
    folder = _folder_of(run)
    if not home.storage.exists(folder):
        return
    has_pointer = home.storage.exists(f"{folder}/{POINTER}")
    elsewhere = home.at(home.storage.location(folder)).elsewhere()
    target = home
    if elsewhere is not None:  # CheckpointHook(out_dir=...)
        target = home.at(_grandparent(elsewhere.home), pointer_dir=home.home)
        _restore(target, run, folder)
    _restore(home, run, folder)
    own = [m for m in target.manifests() if m.run == run and m.resumable]
    if has_pointer and own:
        target.point_to(own[-1].name)


def _restore(home: CheckpointCatalog, run: str, folder: str) -> None:
    set_aside_other_runs(home, run)
    for name in home.storage.names(folder):  # sorted: a file comes before its manifest
        if name != POINTER:
            home.storage.move(f"{folder}/{name}", name)
    home.storage.remove(folder)
    if not home.storage.names(EARLIER):
        home.storage.remove(EARLIER)


def _folder_of(run: str) -> str:
    name = re.sub(r"[^\w.-]", "_", run) or "unnamed"
    return f"{EARLIER}/{name}"


def _grandparent(folder: Location) -> Location:
    return folder.parent.parent if isinstance(folder, Path) else folder.rsplit("/", 2)[0]
