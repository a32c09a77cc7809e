"""Object sampling: paste objects of other frames from the ground-truth database where they do not collide.

Legend: N points · C channels · K boxes · M objects of a class in the database.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from raydet3d import dist
from raydet3d.config import PartCfg
from raydet3d.data.object_database import Bank, Clouds, open_database
from raydet3d.data.paths import inside, join
from raydet3d.data.pipeline import Sample, Transform
from raydet3d.errors import InputError
from raydet3d.info_file import check_backend
from raydet3d.log import get_logger
from raydet3d.ops.bev_collision import overlaps
from raydet3d.ops.points import bev_corners, points_in_boxes
from raydet3d.registry import TRANSFORMS

Floats = NDArray[np.float32]


class DatabaseFilters(TypedDict, total=False):
    """Which objects are left out: difficulty levels, and classes with fewer points than a number."""

    filter_by_difficulty: Sequence[int]
    filter_by_min_points: Mapping[str, int]


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
        database = open_database(join("", self.info_path), self.data_root)
        banks = {}
        for name, _ in self.groups:
            banks[name] = bank = Bank(
                database,
                name,
                bad_levels=sorted(self.bad_levels),
                min_points=self.min_points.get(name, 0),
                box_dim=self.bbox_code_size,
            )
            # Not an error: small data sets lack classes.
            if not len(bank) and dist.is_main_process():
                kept = f"none of {bank.total} passes the filters" if bank.total else "there is none"
                get_logger().warning("%s: no %s to paste: %s", self.info_path, name, kept)
            if len(bank):
                inside(self.data_root, bank.path(0), source=self.info_path)
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
            corners = bev_corners(bank.boxes(drawn)[:, [0, 1, 3, 4, 6]].astype(np.float64))
            kept = _free(taken, corners)
            taken = np.concatenate((taken, corners[kept]))
            picked += [(bank, drawn[i]) for i in kept]
            labels += [label] * len(kept)
        if not picked:
            return None
        boxes = _stack([bank.boxes([i])[0] for bank, i in picked])
        if ground_plane is not None:
            boxes[:, 2] -= boxes[:, :3] @ ground_plane[:3].astype(np.float32) + np.float32(ground_plane[3])
        return boxes, np.array(labels, dtype=np.int64), self._points(picked, boxes)

    def _points(self, picked: Sequence[tuple[Bank, int]], boxes: Floats) -> Floats:
        """Return the points of all objects at their boxes, (n, C)."""
        clouds = [bank.points(i, self.clouds) for bank, i in picked]
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
