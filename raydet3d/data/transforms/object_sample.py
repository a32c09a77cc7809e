"""Object sampling: paste objects of other frames from the ground-truth database where they do not collide.

Legend: N points · C channels · K boxes · M objects of a class in the database.
"""

from __future__ import annotations

import mmap
import os
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray

from raydet3d import dist
from raydet3d.config import PartCfg
from raydet3d.data.paths import inside, join
from raydet3d.data.pipeline import Sample, Transform
from raydet3d.data.transforms.loading import LoadPointsFromFile
from raydet3d.errors import InputError
from raydet3d.info_file import check_backend, read_infos
from raydet3d.log import get_logger
from raydet3d.ops.bev_collision import overlaps
from raydet3d.ops.points import bev_corners, points_in_boxes
from raydet3d.registry import TRANSFORMS

Floats = NDArray[np.float32]

PACK = "{folder}.bin"
"""File beside the database's folder with the points of all objects; an entry's `offset` is its first point."""

DEFAULT_CHANNELS = 4
"""Numbers of a point in the packed file where an entry has no `channels`."""

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


class DatabaseFilters(TypedDict, total=False):
    """Which objects are left out: difficulty levels, and classes with fewer points than a number."""

    filter_by_difficulty: Sequence[int]
    filter_by_min_points: Mapping[str, int]


class Bank:
    """Objects of one class as arrays, which forked loader workers share.

    Args:
        entries: Entries of the database's info file.
        source: That file, for messages.
        box_dim: Numbers of a box to use; all of them by default.
    """

    def __init__(self, entries: Sequence[DatabaseEntry], source: str, box_dim: int | None = None) -> None:
        try:
            boxes = [np.asarray(entry["box3d_lidar"], np.float32)[:box_dim] for entry in entries]
            self.boxes: Floats = np.array(boxes, dtype=np.float32).reshape(len(entries), max([7, *map(len, boxes[:1])]))
            self.counts = np.array([entry["num_points_in_gt"] for entry in entries], dtype=np.int64)
            self.paths = np.array([str(entry["path"]) for entry in entries], dtype=np.str_)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{source}: an object of the database is malformed: {error!r}") from None
        # First point of an object in the packed file; -1 without one.
        self.offsets = np.array([entry.get("offset", -1) for entry in entries], dtype=np.int64)
        self.channels = int(entries[0].get("channels", DEFAULT_CHANNELS)) if entries else DEFAULT_CHANNELS

    def __len__(self) -> int:
        return len(self.boxes)


class Clouds:
    """Points of the objects, from the packed file if there is one, else from single files through a small cache.

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

    def read(self, path: str, offset: int, count: int, channels: int = DEFAULT_CHANNELS) -> Floats:
        """Return an object's points, (n, C), relative to its box's bottom centre; read-only.

        Args:
            path: Its single file.
            offset: Its first point in the packed file; -1 if it is not there.
            count: Number of its points.
            channels: Numbers of a point in the packed file.
        """
        if offset >= 0 and self._packs and self.loader.load_dim == channels:
            packed = self._map(path, channels)
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


@TRANSFORMS.register_module()
class DataBaseSampler:
    """Draw objects from the database until each frame holds the wanted number of each class.

    Args:
        info_path: The database's info file (`kitti_dbinfos_train.pkl`).
        data_root: Folder that its paths are relative to.
        rate: Share of the missing objects to draw.
        prepare: Filters: `filter_by_difficulty` (levels to leave out) and `filter_by_min_points` (class to number).
        sample_groups: Wanted number of objects by class; a dict, or a list of such dicts.
        classes: Names in the order of the labels.
        bbox_code_size: Numbers of a box to use; all of them by default (nuScenes: 9, with the velocity).
        points_loader: Config of the transform that reads an object's file.
        backend_args: Where files are; None or the local disk.
    """

    def __init__(
        self,
        info_path: str,
        data_root: str | None,
        rate: float,
        prepare: DatabaseFilters,
        sample_groups: Mapping[str, int] | Sequence[Mapping[str, int]],
        classes: Sequence[str] | None = None,
        bbox_code_size: int | None = None,
        points_loader: PartCfg | None = None,
        backend_args: PartCfg | None = None,
    ) -> None:
        check_backend(backend_args)
        groups = [sample_groups] if isinstance(sample_groups, Mapping) else list(sample_groups)
        self.groups = [(name, int(number)) for group in groups for name, number in group.items()]
        self.classes = tuple(classes) if classes is not None else tuple(name for name, _ in self.groups)
        for name, _ in self.groups:
            if name not in self.classes:
                raise InputError(f"ObjectSample: sample_groups names {name!r}, which is none of {list(self.classes)}")
        for name in prepare:
            if name not in ("filter_by_difficulty", "filter_by_min_points"):
                raise InputError(
                    f"ObjectSample: prepare has no filter {name!r}; known: filter_by_difficulty, filter_by_min_points"
                )
        self.info_path = info_path
        self.data_root = data_root or os.path.dirname(info_path)
        self.rate = float(rate)
        self.bbox_code_size = bbox_code_size
        self.bad_levels = set(prepare.get("filter_by_difficulty", ()))
        self.min_points = dict(prepare.get("filter_by_min_points", {}))
        loader = TRANSFORMS.build(points_loader or {"type": "LoadPointsFromFile", "load_dim": 4, "use_dim": 4})
        self.clouds = Clouds(self.data_root, loader, info_path)
        self._banks: dict[str, Bank] | None = None

    @property
    def banks(self) -> dict[str, Bank]:
        """Return the filtered objects by class; read on first use."""
        if self._banks is None:
            self._banks = self._load()
        return self._banks

    def _load(self) -> dict[str, Bank]:
        found = read_infos(join("", self.info_path))
        if not isinstance(found, Mapping):
            raise InputError(f"{self.info_path}: an object database is a dict of lists, got {type(found).__name__}")
        banks = {}
        for name, _ in self.groups:
            least = self.min_points.get(name, 0)
            entries = [
                entry
                for entry in found.get(name, ())
                if entry.get("difficulty") not in self.bad_levels and entry.get("num_points_in_gt", 0) >= least
            ]
            # Not an error: small data sets lack classes.
            if not entries and dist.is_main_process():
                kept = f"none of {len(found[name])} passes the filters" if found.get(name) else "there is none"
                get_logger().warning("%s: no %s to paste: %s", self.info_path, name, kept)
            for entry in entries[:1]:
                inside(self.data_root, str(entry.get("path")), source=self.info_path)
            banks[name] = Bank(entries, self.info_path, self.bbox_code_size)
        return banks

    def sample_all(
        self, gt_boxes: Floats, gt_labels: NDArray[np.int64], ground_plane: NDArray[np.float64] | None = None
    ) -> tuple[Floats, NDArray[np.int64], Floats] | None:
        """Draw objects for a frame.

        Args:
            gt_boxes: (K, 7) the frame's own boxes.
            gt_labels: (K,) their labels.
            ground_plane: (4,) a, b, c, d of the road in the LiDAR frame; objects are placed on it.

        Returns:
            (m, 7 or more) boxes, (m,) labels and (n, C) points to paste; None if there are none.
        """
        taken = bev_corners(gt_boxes[:, [0, 1, 3, 4, 6]].astype(np.float64))
        picked: list[tuple[Bank, int]] = []
        labels: list[int] = []
        for name, number in self.groups:
            label = self.classes.index(name)
            missing = round(self.rate * (number - int((gt_labels == label).sum())))
            bank = self.banks[name]
            if missing <= 0 or not len(bank):
                continue
            # Without replacement, from the sample's own generator.
            drawn = random.sample(range(len(bank)), min(missing, len(bank)))
            corners = bev_corners(bank.boxes[drawn][:, [0, 1, 3, 4, 6]].astype(np.float64))
            kept = _free(taken, corners)
            taken = np.concatenate((taken, corners[kept]))
            picked += [(bank, drawn[i]) for i in kept]
            labels += [label] * len(kept)
        if not picked:
            return None
        boxes = _stack([bank.boxes[i] for bank, i in picked])
        if ground_plane is not None:
            boxes[:, 2] -= boxes[:, :3] @ ground_plane[:3].astype(np.float32) + np.float32(ground_plane[3])
        return boxes, np.array(labels, dtype=np.int64), self._points(picked, boxes)

    def _points(self, picked: Sequence[tuple[Bank, int]], boxes: Floats) -> Floats:
        """Return the points of all objects at their boxes, (n, C)."""
        clouds = [
            self.clouds.read(str(bank.paths[i]), int(bank.offsets[i]), int(bank.counts[i]), bank.channels)
            for bank, i in picked
        ]
        points = np.concatenate(clouds)
        points[:, :3] += np.repeat(boxes[:, :3], [len(cloud) for cloud in clouds], axis=0)
        return points


def _stack(boxes: Sequence[Floats]) -> Floats:
    """Stack boxes; a class whose objects have no velocity gets 0."""
    rows = np.zeros((len(boxes), max(len(box) for box in boxes)), dtype=np.float32)
    for row, box in zip(rows, boxes, strict=True):
        row[: len(box)] = box
    return rows


def _free(taken: NDArray[np.float64], new: NDArray[np.float64]) -> list[int]:
    """Return the new rectangles to keep: in turn, each that collides with no taken, kept or later one.

    As in MMDetection3D, dropped rectangles are no obstacle any more, later ones are.
    """
    meets = overlaps(new, np.concatenate((taken, new)))
    own = len(taken) + np.arange(len(new))
    meets[np.arange(len(new)), own] = False
    kept = []
    for i in range(len(new)):
        if meets[i].any():
            meets[:, len(taken) + i] = False
        else:
            kept.append(i)
    return kept


@TRANSFORMS.register_module()
class ObjectSample(Transform):
    """Paste objects of the ground-truth database into the scene.

    Scene points inside of pasted boxes are removed; pasted points come before the scene's.

    Args:
        db_sampler: Arguments of `DataBaseSampler`.
        sample_2d: Must be false; pasting into images is not supported.
        use_ground_plane: Place objects on the road. Without planes in the info file it warns once and continues.
    """

    def __init__(self, db_sampler: PartCfg, sample_2d: bool = False, use_ground_plane: bool = False) -> None:
        if sample_2d:
            raise InputError("ObjectSample: sample_2d=True is not supported; only points are pasted")
        self.db_sampler: DataBaseSampler = TRANSFORMS.build({"type": "DataBaseSampler", **db_sampler})
        self.use_ground_plane = use_ground_plane
        self.disabled = False
        self._warned = False

    def warm_up(self, sample: Sample | None = None) -> None:
        """Read the database before loader workers are forked, and warn early if there is no road plane."""
        _ = self.db_sampler.banks
        if sample is not None:
            self._plane(sample)

    def transform(self, results: Sample) -> Sample:
        """Draw objects, remove scene points inside of them, paste them."""
        if self.disabled:
            return results
        boxes, labels = results["gt_bboxes_3d"], results["gt_labels_3d"]
        drawn = self.db_sampler.sample_all(boxes.tensor[:, :7].numpy(), labels, self._plane(results))
        if drawn is None:
            return results
        new_boxes, new_labels, new_points = drawn
        points = results["points"]
        if new_points.shape[1] != points.shape[1]:
            raise InputError(
                f"ObjectSample: points_loader gives {new_points.shape[1]} numbers a point, the scene has "
                f"{points.shape[1]}; give both the same load_dim and use_dim"
            )
        # Much faster than any(1) over so few columns.
        inside = np.flatnonzero(points_in_boxes(points[:, :3], new_boxes)) // len(new_boxes)
        room = np.ones(len(points), dtype=bool)
        room[inside] = False
        kept = points.take(np.flatnonzero(room), axis=0)
        results["points"] = np.concatenate((new_points.astype(points.dtype, copy=False), kept))
        # A velocity that the database does not have is 0.
        width = min(new_boxes.shape[1], boxes.tensor.shape[1])
        rows = boxes.tensor.new_zeros(len(new_boxes), boxes.tensor.shape[1])
        rows[:, :width] = torch.from_numpy(new_boxes[:, :width])
        results["gt_bboxes_3d"] = boxes.new_box(torch.cat((boxes.tensor, rows)))
        results["gt_labels_3d"] = np.concatenate((labels, new_labels))
        return results

    def _plane(self, results: Sample) -> NDArray[np.float64] | None:
        if not self.use_ground_plane:
            return None
        plane = results.get("plane")
        if plane is None and not self._warned:
            self._warned = True
            if dist.is_main_process():
                get_logger().warning(
                    "ObjectSample: use_ground_plane=True, but the info file has no road planes "
                    "(training/planes was absent when it was prepared); objects keep the height they had"
                )
        return None if plane is None else np.asarray(plane)
