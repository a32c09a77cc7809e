"""Write the ground-truth database: a list of the objects by class, and their points packed into one file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from raydet3d.data.object_database import DEFAULT_CHANNELS, PACK
from raydet3d.files import write_pickle
from raydet3d.info_file import InfoRecord


def write_database(
    root: Path, folder: str, infos: Path, entries: Iterable[InfoRecord], *, channels: int = DEFAULT_CHANNELS
) -> dict[str, int]:
    """Write the packed file, then the info file that refers to it.

    Args:
        root: The data set's folder; the entries' paths are relative to it.
        folder: The database's folder in it.
        infos: Path of the info file.
        entries: An entry of each object, in the frames' order.
        channels: Numbers of a point.

    Returns:
        Number of objects of each class.
    """
    by_class: dict[str, list[dict[str, Any]]] = {}
    packed = root / PACK.format(folder=folder)
    temporary = packed.with_name(f".{packed.name}.tmp")
    extra = {} if channels == DEFAULT_CHANNELS else {"channels": channels}
    offset = 0
    with temporary.open("wb") as file:
        for number, entry in enumerate(entries):
            data = (root / entry["path"]).read_bytes()
            file.write(data)
            by_class.setdefault(entry["name"], []).append(
                {
                    **entry,
                    "box3d_lidar": np.array(entry["box3d_lidar"], dtype=np.float32),
                    "group_id": number,
                    "offset": offset,
                    **extra,
                }
            )
            offset += len(data) // (4 * channels)
    # The old list must not refer to the new file; without a list, the single files are read.
    infos.unlink(missing_ok=True)
    temporary.replace(packed)
    write_pickle(infos, by_class)
    return {name: len(found) for name, found in by_class.items()}
