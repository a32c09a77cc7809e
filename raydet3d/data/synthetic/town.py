"""The folder of a generated town: written on first use, by one process, and renamed into place when complete."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from raydet3d.data.prepare import prepare_kitti
from raydet3d.data.synthetic.kitti_layout import write_town
from raydet3d.data.synthetic.town_settings import TownSettings
from raydet3d.errors import InputError
from raydet3d.files import locked
from raydet3d.host import num_processors
from raydet3d.log import get_logger
from raydet3d.progress_bar import ProgressBar

SETTINGS_FILE = "settings.json"
MOST_WORKERS = 16


class Settings(Protocol):
    """What decides which town is generated."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the generator's version."""


Generator = Callable[[Path, Path], int]
"""Writes and prepares a town: takes the folder to write to and that which it will become, returns the frames."""


def ensure_town(root: Path, settings: Settings, generator: Generator | None = None) -> None:
    """Generate and prepare the town in a folder unless it is there already.

    Other processes wait while one generates. The town is written beside the folder and renamed when it is complete,
    so an interrupted generation leaves nothing that could be taken for a town.

    Args:
        root: The town's folder.
        settings: Settings of the town.
        generator: Writes the town; by default in KITTI's layout, which needs `TownSettings`.

    Raises:
        InputError: The folder holds another town, or something else, or cannot be written.
    """
    if is_town(root, settings):
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = root.parent / f".{root.name}.lock"
        with locked(lock, timeout_s=-1, busy=f"{lock} is held by another process"):
            # The previous holder of the lock may have generated it.
            if not is_town(root, settings):
                _generate(root, settings, generator or partial(_write_kitti_town, settings))
    except OSError as error:
        raise InputError(
            f"TownDataset: cannot write the town to {str(root)!r} ({error.strerror or error}); "
            f"set data_root to a folder on a disk with room"
        ) from error


def is_town(root: Path, settings: Settings) -> bool:
    """Return whether a folder holds the town; false for a folder that is empty or does not exist.

    Raises:
        InputError: It holds another town, or something else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"TownDataset: data_root {str(root)!r} holds something that is no generated town (it has no readable "
            f"{SETTINGS_FILE}); set data_root to a folder that is empty or not there"
        )
    wanted = settings.to_dict()
    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if keys:
        there, asked = (", ".join(f"{key}={town.get(key)}" for key in keys) for town in (found, wanted))
        raise InputError(
            f"TownDataset: data_root {str(root)!r} holds the town with {there}, the config asks for {asked}; "
            "delete the folder to generate it anew, or set data_root to another one"
        )
    return True


def _write_kitti_town(settings: Settings, folder: Path, root: Path) -> int:
    assert isinstance(settings, TownSettings)
    frames = settings.num_train + settings.num_val
    with ProgressBar(frames, f"town for {root}") as bar:
        for _ in write_town(folder, settings, workers=min(num_processors(), MOST_WORKERS)):
            bar.step()
    # In this process: it takes 5 ms a frame, and worker processes would have to import the caller's script.
    prepare_kitti(folder)
    return frames


def _generate(root: Path, settings: Settings, generator: Generator) -> None:
    """Write the town beside its folder, prepare it, and rename it."""
    started = time.monotonic()
    unfinished = root.parent / f".{root.name}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        frames = generator(unfinished, root)
        (unfinished / SETTINGS_FILE).write_text(json.dumps(settings.to_dict(), indent=2) + "\n", encoding="utf-8")
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    get_logger().info("generated %d frames in %s in %.0f s", frames, root, time.monotonic() - started)
