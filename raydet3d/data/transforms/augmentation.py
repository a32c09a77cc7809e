"""Augmentation of points and boxes. Random draws are in MMDetection3D's order.

Legend: N points · C channels · K boxes · T tries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from raydet3d.data.pipeline import Sample, Transform
from raydet3d.errors import InputError
from raydet3d.ops.bev_collision import overlaps
from raydet3d.ops.points import bev_corners, points_in_boxes, rotate_z
from raydet3d.registry import TRANSFORMS

# Attempts of ObjectNoise that are tested together; most boxes need one or two.
_TRIES_AT_ONCE = 8


def _pair(value: float | Sequence[float], name: str) -> tuple[float, float]:
    """Return (-v, v) for a number v, or the two numbers."""
    if isinstance(value, int | float):
        return -abs(float(value)), abs(float(value))
    if len(value) != 2:
        raise InputError(f"{name} must be a number or two numbers, got {value!r}")
    return float(value[0]), float(value[1])


def _triple(value: float | Sequence[float], name: str) -> list[float]:
    """Return one number three times, or the three numbers; none may be negative."""
    three = [float(value)] * 3 if isinstance(value, int | float) else [float(v) for v in value]
    if len(three) != 3 or min(three) < 0:
        raise InputError(f"{name} must be a number or three numbers, none negative; got {value!r}")
    return three


def _range(value: Sequence[float], name: str) -> list[float]:
    """Return six numbers x0 y0 z0 x1 y1 z1 with x0 < x1 and so on."""
    six = [float(v) for v in value]
    if len(six) != 6 or any(low >= high for low, high in zip(six[:3], six[3:], strict=True)):
        raise InputError(
            f"{name}: point_cloud_range must be (x0, y0, z0, x1, y1, z1), each 0 below its 1; got {value!r}"
        )
    return six


@TRANSFORMS.register_module()
class RandomFlip3D(Transform):
    """Mirror points and boxes.

    Args:
        sync_2d: Accepted; it only affects samples with an image.
        flip_ratio_bev_horizontal: Probability of negating y.
        flip_ratio_bev_vertical: Probability of negating x.
        flip_box3d: False leaves the boxes as they are.
    """

    def __init__(
        self,
        sync_2d: bool = True,
        flip_ratio_bev_horizontal: float = 0.0,
        flip_ratio_bev_vertical: float = 0.0,
        flip_box3d: bool = True,
    ) -> None:
        self.sync_2d = sync_2d
        self.ratios = {"horizontal": flip_ratio_bev_horizontal, "vertical": flip_ratio_bev_vertical}
        self.flip_box3d = flip_box3d
        for direction, ratio in self.ratios.items():
            if not 0 <= ratio <= 1:
                raise InputError(f"RandomFlip3D: flip_ratio_bev_{direction} must lie in [0, 1], got {ratio!r}")

    def transform(self, results: Sample) -> Sample:
        """Mirror by chance, or as `pcd_horizontal_flip` and `pcd_vertical_flip` say where they are set."""
        for direction, ratio in self.ratios.items():
            key = f"pcd_{direction}_flip"
            if key not in results:
                results[key] = bool(np.random.rand() < ratio)
        flow = results.setdefault("transformation_3d_flow", [])
        for direction, axis, mark in (("horizontal", 1, "HF"), ("vertical", 0, "VF")):
            if not results[f"pcd_{direction}_flip"]:
                continue
            results["points"][:, axis] *= -1
            if self.flip_box3d and "gt_bboxes_3d" in results:
                results["gt_bboxes_3d"].flip(direction)
            flow.append(mark)
        return results


@TRANSFORMS.register_module()
class GlobalRotScaleTrans(Transform):
    """Rotate, scale and translate the whole scene, in this order.

    Args:
        rot_range: Radians, counter-clockwise: bounds of a uniform draw, or one number for both sides.
        scale_ratio_range: Bounds of a uniform draw.
        translation_std: Standard deviations of a normal shift in x, y, z, metres.
        shift_height: Must be false; point clouds with a height channel are not supported.
    """

    def __init__(
        self,
        rot_range: float | Sequence[float] = (-0.78539816, 0.78539816),
        scale_ratio_range: Sequence[float] = (0.95, 1.05),
        translation_std: float | Sequence[float] = (0, 0, 0),
        shift_height: bool = False,
    ) -> None:
        if shift_height:
            raise InputError(
                "GlobalRotScaleTrans: shift_height=True needs a height channel, which no loader here makes"
            )
        self.rot_range = _pair(rot_range, "GlobalRotScaleTrans: rot_range")
        if isinstance(scale_ratio_range, int | float) or min(scale_ratio_range) <= 0:
            raise InputError(
                f"GlobalRotScaleTrans: scale_ratio_range must be two factors above 0, got {scale_ratio_range!r}"
            )
        self.scale_ratio_range = _pair(scale_ratio_range, "GlobalRotScaleTrans: scale_ratio_range")
        self.translation_std = _triple(translation_std, "GlobalRotScaleTrans: translation_std")

    def transform(self, results: Sample) -> Sample:
        """Draw an angle, a factor (unless `pcd_scale_factor` is set) and a shift, and apply them."""
        angle = float(np.random.uniform(*self.rot_range))
        if "pcd_scale_factor" not in results:
            results["pcd_scale_factor"] = float(np.random.uniform(*self.scale_ratio_range))
        factor: float = results["pcd_scale_factor"]
        shift = np.random.normal(scale=self.translation_std, size=3)

        points = results["points"]
        cos, sin = math.cos(angle), math.sin(angle)
        # Transposed, as MMDetection3D stores it: points @ matrix turns counter-clockwise.
        matrix = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=np.float32)
        if angle != 0:
            x, y = points[:, 0], points[:, 1]
            with np.errstate(invalid="ignore"):  # points at infinity, which the range filter removes
                along = x * cos - y * sin
                points[:, 1] = x * sin + y * cos
            points[:, 0] = along
        if factor != 1 or shift.any():
            # Column by column: numpy is slow over rows of three.
            for axis in range(3):
                points[:, axis] *= factor
                points[:, axis] += float(shift[axis])
        boxes = results.get("gt_bboxes_3d")
        if boxes is not None and len(boxes):
            boxes.rotate(angle)
            boxes.scale(factor)
            boxes.translate(shift.tolist())
        results["pcd_rotation"] = torch.from_numpy(matrix)
        results["pcd_rotation_angle"] = angle
        results["pcd_trans"] = shift
        results.setdefault("transformation_3d_flow", []).extend(["R", "S", "T"])
        return results


@TRANSFORMS.register_module()
class ObjectNoise(Transform):
    """Translate and rotate each object with its points, unless it would collide with another.

    Args:
        translation_std: Standard deviations of the shift in x, y, z, metres.
        global_rot_range: Accepted when it is [0, 0] (off), as in every published config.
        rot_range: Bounds of the rotation about the object's centre, radians.
        num_try: Attempts for each object, which stays in place when all collide.
    """

    def __init__(
        self,
        translation_std: float | Sequence[float] = (0.25, 0.25, 0.25),
        global_rot_range: float | Sequence[float] = (0.0, 0.0),
        rot_range: float | Sequence[float] = (-0.15707963267, 0.15707963267),
        num_try: int = 100,
    ) -> None:
        self.translation_std = _triple(translation_std, "ObjectNoise: translation_std")
        if any(_pair(global_rot_range, "ObjectNoise: global_rot_range")):
            raise InputError(
                f"ObjectNoise: global_rot_range must be [0, 0], got {global_rot_range!r}; turn scenes instead"
            )
        self.rot_range = _pair(rot_range, "ObjectNoise: rot_range")
        if num_try < 1:
            raise InputError(f"ObjectNoise: num_try must be at least 1, got {num_try!r}")
        self.num_try = num_try

    def transform(self, results: Sample) -> Sample:
        """Move the boxes and the points inside of them."""
        boxes = results["gt_bboxes_3d"]
        if not len(boxes):
            return results
        before = boxes.tensor.numpy().astype(np.float64)
        shifts = np.random.normal(scale=self.translation_std, size=(len(before), self.num_try, 3))
        turns = np.random.uniform(*self.rot_range, size=(len(before), self.num_try))
        shift, turn = self._choose(before, shifts, turns)
        points = results["points"]
        inside = points_in_boxes(points[:, :3], before[:, :7].astype(points.dtype))
        hit, of = np.divmod(np.flatnonzero(inside), len(before))
        # A point inside two boxes moves with the first.
        first = np.diff(hit, prepend=-1) > 0
        hit, of = hit[first], of[first]
        centre = before[of, :3]
        moved = rotate_z(points[hit, :3] - centre, turn[of]) + centre + shift[of]
        points[hit, :3] = moved.astype(points.dtype)
        after = before.copy()
        after[:, :3] += shift
        after[:, 6] += turn
        boxes.tensor = torch.from_numpy(after).to(boxes.tensor)
        return results

    @staticmethod
    def _choose(
        boxes: NDArray[np.float64], shifts: NDArray[np.float64], turns: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return each box's first attempt without a collision: (K, 3) shifts, (K,) turns; zero if there is none."""
        bev = boxes[:, [0, 1, 3, 4, 6]]
        corners = bev_corners(bev)  # (K, 4, 2), moved along as boxes move
        shift, turn = np.zeros((len(boxes), 3)), np.zeros(len(boxes))
        for box in range(len(boxes)):
            others = np.delete(corners, box, axis=0)
            for begin in range(0, turns.shape[1], _TRIES_AT_ONCE):
                some = slice(begin, begin + _TRIES_AT_ONCE)
                tried = np.repeat(bev[box][None], len(turns[box, some]), axis=0)
                tried[:, :2] += shifts[box, some, :2]
                tried[:, 4] += turns[box, some]
                where = bev_corners(tried)
                free = np.flatnonzero(~overlaps(where, others).any(1))
                if len(free):
                    corners[box] = where[free[0]]
                    shift[box], turn[box] = shifts[box, begin + free[0]], turns[box, begin + free[0]]
                    break
        return shift, turn


@TRANSFORMS.register_module()
class PointsRangeFilter(Transform):
    """Keep the points strictly inside a range.

    Args:
        point_cloud_range: x0, y0, z0, x1, y1, z1 in metres.
    """

    def __init__(self, point_cloud_range: Sequence[float]) -> None:
        self.point_cloud_range = _range(point_cloud_range, "PointsRangeFilter")

    def transform(self, results: Sample) -> Sample:
        """Drop the other points and their per-point masks."""
        points = results["points"]
        low, high = np.array(self.point_cloud_range, dtype=points.dtype).reshape(2, 3)
        keep = np.ones(len(points), dtype=bool)
        for axis in range(3):
            column = np.ascontiguousarray(points[:, axis])
            keep &= column > low[axis]
            keep &= column < high[axis]
        _take_points(results, np.flatnonzero(keep))
        return results


@TRANSFORMS.register_module()
class ObjectRangeFilter(Transform):
    """Keep the boxes whose centre is strictly inside a range in bird's eye view; limit yaw to [-pi, pi).

    Args:
        point_cloud_range: x0, y0, z0, x1, y1, z1 in metres; z is not used.
    """

    def __init__(self, point_cloud_range: Sequence[float]) -> None:
        self.point_cloud_range = _range(point_cloud_range, "ObjectRangeFilter")

    def transform(self, results: Sample) -> Sample:
        """Drop the other boxes and their labels."""
        x0, y0, _, x1, y1, _ = self.point_cloud_range
        _take_boxes(results, results["gt_bboxes_3d"].in_range_bev((x0, y0, x1, y1)).numpy())
        results["gt_bboxes_3d"].limit_yaw(offset=0.5, period=2 * math.pi)
        return results


@TRANSFORMS.register_module()
class ObjectNameFilter(Transform):
    """Keep the boxes of the named classes.

    Args:
        classes: Names of the classes, in the order of their labels.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def transform(self, results: Sample) -> Sample:
        """Drop the other boxes and their labels."""
        labels = results["gt_labels_3d"]
        _take_boxes(results, (labels >= 0) & (labels < len(self.classes)))
        return results


@TRANSFORMS.register_module()
class PointShuffle(Transform):
    """Shuffle the points."""

    def transform(self, results: Sample) -> Sample:
        """Shuffle the points, and per-point masks with them."""
        _take_points(results, torch.randperm(len(results["points"])).numpy())
        return results


def _take_points(results: Sample, index: NDArray[np.int64]) -> None:
    """Keep these points, in this order."""
    results["points"] = results["points"].take(index, axis=0)
    for mask in ("pts_instance_mask", "pts_semantic_mask"):
        if results.get(mask) is not None:
            results[mask] = results[mask][index]


def _take_boxes(results: Sample, keep: NDArray[np.bool_]) -> None:
    """Keep the boxes where `keep` is true."""
    results["gt_bboxes_3d"] = results["gt_bboxes_3d"][torch.from_numpy(keep)]
    results["gt_labels_3d"] = results["gt_labels_3d"][keep]
