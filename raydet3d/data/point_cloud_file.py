"""Read point clouds stored as raw float32 numbers, as KITTI and nuScenes store them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet3d.errors import InputError


def read_cloud(path: Path | str, *, channels: int = 4) -> NDArray[np.float32]:
    """Read a point cloud of float32 numbers: (N, C).

    Raises:
        InputError: The file does not exist, or its size is no multiple of a point's; both sizes are named.
    """
    point_bytes = 4 * channels
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size % point_bytes:
                return np.fromfile(file, dtype=np.float32).reshape(-1, channels)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    raise InputError(
        f"{path}: {size} bytes, not a multiple of the {point_bytes} bytes of a point ({channels} float32); the file is "
        f"truncated (the last whole point ends at {size - size % point_bytes} bytes) or has another number of channels"
    )
