"""The ground-truth database: boxes and points of annotated objects, memory-mapped so that all processes share them.

Legend: M objects of a class · C numbers of a point.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from raydet3d import __version__
from raydet3d.array_cache import ArrayWriter, CachedArrays, open_cached
from raydet3d.data.paths import inside
from raydet3d.data.transforms.loading import LoadPointsFromFile
from raydet3d.errors import InputError
from raydet3d.info_file import read_infos
from raydet3d.progress_bar import ProgressBar

Floats = NDArray[np.float32]

PACK = "{folder}.bin"
"""File beside the database's folder with the points of all objects; an entry's `offset` is its first point."""

DEFAULT_CHANNELS = 4
"""Numbers of a point in the packed file where an entry has no `channels`."""

_COLUMNS = ("boxes", "counts", "difficulty", "offsets", "paths", "path_ends")
_NO_DIFFICULTY = np.iinfo(np.int64).min
_CACHE_BYTES = 64 << 20


class DatabaseEntry(TypedDict, total=False):
    """An object in the database's info file; `offset` is the first point in the packed file."""

    name: str
    path: str
    box3d_lidar: npt.ArrayLike
    num_points_in_gt: int
    difficulty: int
    image_idx: int | str
    gt_idx: int
    score: float
    group_id: int
    offset: int
    channels: int


def open_database(path: Path | str, root: str) -> CachedArrays:
    """Open a database's info file through its cache.

    The cache holds, for each class, the columns that `Bank` reads. Where the database has no packed file of its own, as
    with MMDetection3D's, the cache holds the points of all objects as well.

    Args:
        path: The info file: lists of `DatabaseEntry` by class.
        root: Folder that the entries' paths are relative to.

    Raises:
        InputError: The file is missing, damaged or malformed.
    """

    def fill(writer: ArrayWriter) -> None:
        found = read_infos(path)
        if not isinstance(found, Mapping):
            raise InputError(f"{path}: an object database is a dict of lists, got {type(found).__name__}")
        # Paths are relative to the root, so only the cache of the root's own database may hold points.
        packs = writer.is_cache and os.path.abspath(root) == os.path.dirname(os.path.abspath(path))
        for name, entries in found.items():
            _add_class(writer, str(name), entries, str(path), root if packs else None)

    path = Path(path)
    if "\0" in str(path) or not path.is_file():
        read_infos(path)  # raises
    return open_cached(path, f"object database 1, raydet3d {__version__}", fill)


def _add_class(writer: ArrayWriter, name: str, entries: Sequence[DatabaseEntry], source: str, root: str | None) -> None:
    """Write the columns of a class and, given the root, the points of objects that are in no packed file."""
    try:
        boxes = [np.asarray(entry["box3d_lidar"], np.float32) for entry in entries]
        columns: dict[str, NDArray[Any]] = {
            "boxes": np.array(boxes, np.float32).reshape(len(entries), max([7, *map(len, boxes[:1])])),
            "counts": np.array([entry["num_points_in_gt"] for entry in entries], np.int64),
            "difficulty": np.array([entry.get("difficulty", _NO_DIFFICULTY) for entry in entries], np.int64),
            "offsets": np.array([entry.get("offset", -1) for entry in entries], np.int64),
            "channels": np.array([entry.get("channels", DEFAULT_CHANNELS) for entry in entries[:1]], np.int64),
        }
        paths = [str(entry["path"]).encode() for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: an object of the database is malformed: {error!r}") from None
    if root is not None and entries and (columns["offsets"] < 0).all():
        columns |= _add_points(writer, name, entries, root)
    columns["paths"] = np.frombuffer(b"".join(paths), np.uint8)
    columns["path_ends"] = np.cumsum([len(path) for path in paths], dtype=np.int64)
    for key, column in columns.items():
        writer.add(f"{name}/{key}", [column], like=column)


def _add_points(
    writer: ArrayWriter, name: str, entries: Sequence[DatabaseEntry], root: str
) -> dict[str, NDArray[np.int64]]:
    """Write the points of a class's objects, from their single files; return their columns `offsets` and `channels`.

    A file that is missing, or does not have as many points as its entry says, is left out: it is read by itself.
    """
    offsets = np.full(len(entries), -1, np.int64)
    channels = 0

    def clouds() -> Iterator[Floats]:
        nonlocal channels
        end = 0
        with ProgressBar(len(entries), f"packing {name} of {root}") as bar:
            for number, entry in enumerate(entries):
                bar.step()
                count = int(entry["num_points_in_gt"])
                try:
                    points = np.fromfile(inside(root, str(entry["path"]), source=root), np.float32)
                except (OSError, ValueError, InputError):
                    continue
                channels = channels or (len(points) // count if count else 0)
                if count and len(points) == channels * count:
                    offsets[number] = end
                    end += count
                    yield points

    writer.add(f"{name}/points", clouds(), like=np.zeros(0, np.float32))
    return {"offsets": offsets, "channels": np.array([channels or DEFAULT_CHANNELS], np.int64)}


class Bank:
    """Objects of one class that pass the filters.

    Args:
        database: See `open_database`.
        name: The class.
        bad_levels: Difficulty levels to leave out.
        min_points: Objects with fewer points are left out.
        box_dim: Numbers of a box to use; all of them by default.
    """

    def __init__(
        self,
        database: CachedArrays,
        name: str,
        bad_levels: Sequence[int] = (),
        min_points: int = 0,
        box_dim: int | None = None,
    ) -> None:
        self._arguments = database, name, bad_levels, min_points, box_dim
        self._box_dim = box_dim
        known = f"{name}/counts" in database
        nothing: NDArray[Any] = np.zeros(0, np.int64)
        column = {key: database[f"{name}/{key}"] if known else nothing for key in _COLUMNS}
        self._boxes: Floats = column["boxes"]
        self._counts, self._difficulty, self._offsets = column["counts"], column["difficulty"], column["offsets"]
        self._paths, self._path_ends = column["paths"], column["path_ends"]
        self.channels = int(database[f"{name}/channels"].sum()) if self.total else DEFAULT_CHANNELS
        packed: Floats | None = database.get(f"{name}/points")
        self._points = None if packed is None else packed.reshape(-1, self.channels)
        passes = ~np.isin(self._difficulty, list(bad_levels)) & (self._counts >= min_points)
        self.kept: NDArray[np.int64] = np.flatnonzero(passes)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the cache itself; columns would be copied.
        return type(self), self._arguments

    @property
    def total(self) -> int:
        """Number of the class's objects, with those that are left out."""
        return len(self._counts)

    def __len__(self) -> int:
        return len(self.kept)

    def boxes(self, drawn: Sequence[int]) -> Floats:
        """Return the boxes of some objects, (len(drawn), 7 or more)."""
        return self._boxes[self.kept[drawn], : self._box_dim]

    def path(self, index: int) -> str:
        """Return the path of an object's single file."""
        row = self.kept[index]
        begin = self._path_ends[row - 1] if row else 0
        return self._paths[begin : self._path_ends[row]].tobytes().decode()

    def points(self, index: int, clouds: Clouds) -> Floats:
        """Return an object's points, (n, C), relative to its box's bottom centre; read-only."""
        row = self.kept[index]
        offset, count = int(self._offsets[row]), int(self._counts[row])
        return clouds.read(self.path(index), offset, count, self.channels, self._points)


class Clouds:
    """Points of the objects: from the cache or the packed file if they are there, else from single files.

    A small part of the single files' content is kept in memory.

    Args:
        root: Folder that the paths of the database are relative to.
        loader: Reads one object's file.
        source: The database's info file, for messages.
    """

    def __init__(self, root: str, loader: Any, source: str) -> None:
        self.root = root
        self.loader = loader
        self.source = source
        # A loader that does more than read needs the single files.
        self._packs = type(loader) is LoadPointsFromFile and not (loader.norm_intensity or loader.norm_elongation)
        self._maps: dict[str, Floats | None] = {}
        self._cache: OrderedDict[str, Floats] = OrderedDict()
        self._cached = 0

    def __getstate__(self) -> dict[str, Any]:
        # A memory map cannot be pickled; the other process opens its own.
        return {**self.__dict__, "_maps": {}, "_cache": OrderedDict(), "_cached": 0}

    def read(
        self, path: str, offset: int, count: int, channels: int = DEFAULT_CHANNELS, packed: Floats | None = None
    ) -> Floats:
        """Return an object's points, (n, C), relative to its box's bottom centre; read-only.

        Args:
            path: Its single file.
            offset: Its first point in `packed`, or in the packed file; -1 if it is not there.
            count: Number of its points.
            channels: Numbers of a point there.
            packed: (N, channels) points of all objects; those of the packed file by default.
        """
        if offset >= 0 and self._packs and self.loader.load_dim == channels:
            packed = self._map(path, channels) if packed is None else packed
            if packed is not None and (offset + count) <= len(packed):
                points = packed[offset : offset + count]
                use = self.loader.use_dim
                return points if use == list(range(channels)) else points[:, use]
        return self._file(path)

    def _map(self, path: str, channels: int) -> Floats | None:
        folder = path.partition("/")[0]
        if folder not in self._maps:
            file = inside(self.root, PACK.format(folder=folder), source=self.source)
            self._maps[folder] = _open_map(file, channels) if os.path.isfile(file) else None
        return self._maps[folder]

    def _file(self, path: str) -> Floats:
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        file = inside(self.root, path, source=self.source)
        points: Floats = self.loader({"lidar_points": {"lidar_path": file}})["points"]
        self._cache[path] = points
        self._cached += points.nbytes
        while self._cached > _CACHE_BYTES and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return points


def _open_map(file: str, channels: int) -> Floats | None:
    size = os.path.getsize(file)
    if not size or size % (4 * channels):
        return None
    with open(file, "rb") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype=np.float32).reshape(-1, channels)
