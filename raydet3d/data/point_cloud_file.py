"""Read point clouds: raw float32 numbers, as KITTI and nuScenes store them, and .npy, .pcd and .ply files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.pcd_file import parse_pcd
from raydet3d.data.ply_file import parse_ply
from raydet3d.errors import InputError, nearest_or_all

SUFFIXES = (".bin", ".npy", ".pcd", ".ply")
"""Formats, by the end of the file's name."""

COLUMNS = ("x", "y", "z", "intensity")
"""Columns of a file that does not name them (.bin, .npy)."""

# Other names of the same quantity, in lower case, as LiDAR drivers and viewers write them.
_SYNONYMS = {"intensity": ("reflectivity", "reflectance", "scalar_intensity", "i")}


def read_cloud(path: Path | str, *, channels: int = 4) -> NDArray[np.float32]:
    """Read a point cloud: (N, C).

    A file without names of columns gives its first ones, and a .bin file must have just as many. A .pcd or .ply file
    gives x, y, z, intensity (where it has one), and then its other fields in their order.

    Raises:
        InputError: The file does not exist, is damaged, or has fewer columns. Of a .bin file, the size is no multiple
            of a point's; both sizes are named.
    """
    if str(path).lower().endswith((".npy", ".pcd", ".ply")):
        fields = read_fields(path)
        first = ["x", "y", "z", *filter(None, [_find(fields, "intensity")])]
        chosen = [fields[name] for name in (*first, *(name for name in fields if name not in first))][:channels]
        if len(chosen) < channels:
            raise InputError(f"{path}: has the columns {', '.join(fields)}, but {channels} numbers a point are read")
        return np.stack(chosen, axis=1).astype(np.float32, copy=False)
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


def read_fields(
    path: Path | str, *, columns: Sequence[str] = COLUMNS, dtype: str = "float32"
) -> dict[str, NDArray[np.generic]]:
    """Read a point cloud of any format: each column, (N,), by name.

    Args:
        path: The file; its suffix says the format.
        columns: Names of the columns of a .bin or .npy file, which has none.
        dtype: Numbers of a .bin file: float32 or float64, little-endian.

    Raises:
        InputError: The file does not exist, is damaged or of an unknown format, has other columns, or has no x, y, z.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a point cloud of an unknown format; known: {', '.join(SUFFIXES)}")
    if suffix == ".bin" and dtype == "float32":
        fields = _named(path, read_cloud(path, channels=len(columns)), columns)
    elif suffix == ".npy":
        fields = _read_npy(path, columns)
    else:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
        if suffix == ".bin":
            if len(content) % (8 * len(columns)):
                raise InputError(f"{path}: {len(content)} bytes, not a multiple of a point's {len(columns)} float64")
            fields = _named(path, np.frombuffer(content, "<f8").reshape(-1, len(columns)), columns)
        else:
            fields = parse_pcd(content, str(path)) if suffix == ".pcd" else parse_ply(content, str(path))
    for name in ("x", "y", "z"):
        if name not in fields:
            raise InputError(f"{path}: has no column {name!r}; its columns are {', '.join(fields)}")
    return fields


def select_columns(
    fields: dict[str, NDArray[np.generic]], names: Sequence[str], path: Path | str, *, optional: Sequence[str] = ()
) -> NDArray[np.float64]:
    """Return columns of a cloud side by side: (N, C).

    Args:
        fields: What `read_fields` returned.
        names: The columns; `intensity` also finds what others call reflectivity or reflectance.
        path: The file, for messages.
        optional: Columns that are 0 where the file lacks them.

    Raises:
        InputError: A column that is not optional is missing.
    """
    out = np.zeros((len(fields["x"]), len(names)))
    for column, name in enumerate(names):
        found = _find(fields, name)
        if found is not None:
            out[:, column] = fields[found]
        elif name not in optional:
            raise InputError(f"{path}: has no column {name!r}{nearest_or_all(name, fields).replace('takes', 'has')}")
    return out


def _find(fields: dict[str, NDArray[np.generic]], name: str) -> str | None:
    """Return the name under which a file has a column."""
    if name in fields:
        return name
    return next((key for key in fields if key.lower() in (name, *_SYNONYMS.get(name, ()))), None)


def _named(path: Path, table: NDArray[np.generic], columns: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise InputError(
            f"{path}: an array of shape {'x'.join(map(str, table.shape))}, but the columns are {', '.join(columns)}"
        )
    return {name: table[:, i] for i, name in enumerate(columns)}


def _read_npy(path: Path, columns: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    try:
        table = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: no array of numbers in numpy's format ({error})") from None
    if not isinstance(table, np.ndarray):
        raise InputError(f"{path}: holds several arrays, not one of shape (points, columns)")
    if table.dtype.names:
        return {name: table[name].reshape(-1) for name in table.dtype.names}
    if table.dtype.kind not in "fiu":
        raise InputError(f"{path}: an array of {table.dtype}, not of numbers")
    if columns is COLUMNS and table.ndim == 2 and table.shape[1] > len(COLUMNS):
        columns = [*COLUMNS, *(f"column_{i}" for i in range(len(COLUMNS), table.shape[1]))]
    return _named(path, table, columns)
