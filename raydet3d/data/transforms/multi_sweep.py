"""Load the sweeps before a keyframe into its frame.

Legend: N points · C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.pipeline import Sample, Transform
from raydet3d.data.point_cloud_file import read_cloud
from raydet3d.errors import InputError
from raydet3d.info_file import InfoRecord, check_backend
from raydet3d.registry import TRANSFORMS

_TIME = 4  # column of a point that the time lag replaces


@TRANSFORMS.register_module()
class LoadPointsFromMultiSweeps(Transform):
    """Add the points of earlier sweeps, moved into the keyframe's LiDAR frame, behind the keyframe's.

    Column 4 of all points becomes the time before the keyframe, seconds: 0 for its own points.

    Args:
        sweeps_num: Sweeps to add, without the keyframe. Where there are more, training draws some without replacement
            and testing takes the nearest.
        load_dim: Numbers of a point in a sweep's file.
        use_dim: How many of them to keep from the front, or which.
        backend_args: Where files are; None or the local disk.
        pad_empty_sweeps: Repeat the keyframe `sweeps_num` times where the sample has no sweeps.
        remove_close: Remove a sweep's points less than 1 m from its sensor along x and along y (those on the car).
        test_mode: Take the nearest sweeps instead of drawing some.
        mmdet3d_shift: Shift a sweep as MMDetection3D 1.x does, which rotates the shift the wrong way: sweeps are then
            misplaced where the car turns. False places them where they were measured, as its versions before 1.0 did.
    """

    def __init__(
        self,
        sweeps_num: int = 10,
        load_dim: int = 5,
        use_dim: int | Sequence[int] = (0, 1, 2, 4),
        backend_args: Mapping[str, Any] | None = None,
        pad_empty_sweeps: bool = False,
        remove_close: bool = False,
        test_mode: bool = False,
        mmdet3d_shift: bool = False,
    ) -> None:
        check_backend(backend_args)
        if sweeps_num < 0:
            raise InputError(f"LoadPointsFromMultiSweeps: sweeps_num must be 0 or more, got {sweeps_num!r}")
        if load_dim <= _TIME:
            raise InputError(f"LoadPointsFromMultiSweeps: load_dim must be 5 or more, got {load_dim!r}")
        self.sweeps_num = sweeps_num
        self.load_dim = load_dim
        self.use_dim = list(range(use_dim)) if isinstance(use_dim, int) else [int(dim) for dim in use_dim]
        if not self.use_dim or not 0 <= min(self.use_dim) <= max(self.use_dim) < load_dim:
            raise InputError(
                f"LoadPointsFromMultiSweeps: use_dim={use_dim!r} asks for more than load_dim={load_dim} numbers"
            )
        self.pad_empty_sweeps = pad_empty_sweeps
        self.remove_close = remove_close
        self.test_mode = test_mode
        self.mmdet3d_shift = mmdet3d_shift

    def transform(self, results: Sample) -> Sample:
        """Append the sweeps' points to `points`; needs `timestamp` and, where there are sweeps, `lidar_sweeps`."""
        points: NDArray[np.float32] = results["points"]
        if points.shape[1] != self.load_dim:
            raise InputError(
                f"LoadPointsFromMultiSweeps: load_dim={self.load_dim}, but the keyframe's points have "
                f"{points.shape[1]} numbers; give LoadPointsFromFile the same load_dim and use_dim"
            )
        points[:, _TIME] = 0
        clouds = [points]
        sweeps = results.get("lidar_sweeps")
        if sweeps is None:
            if self.pad_empty_sweeps:
                clouds += [self._remove_close(points) if self.remove_close else points] * self.sweeps_num
        else:
            clouds += [self._load_sweep(sweeps[index], results["timestamp"]) for index in self._choose(len(sweeps))]
        merged = np.concatenate(clouds)
        if self.use_dim != list(range(self.load_dim)):
            merged = np.ascontiguousarray(merged[:, self.use_dim])
        results["points"] = merged
        return results

    def _choose(self, count: int) -> Sequence[int]:
        if count <= self.sweeps_num:
            return range(count)
        if self.test_mode:
            return range(self.sweeps_num)
        drawn: list[int] = np.random.choice(count, self.sweeps_num, replace=False).tolist()
        return drawn

    def _load_sweep(self, sweep: InfoRecord, timestamp: float) -> NDArray[np.float32]:
        """Return a sweep's points in the keyframe's LiDAR frame, with their time lag."""
        points = read_cloud(sweep["lidar_points"]["lidar_path"], channels=self.load_dim)
        if self.remove_close:
            points = self._remove_close(points)
        lidar2sensor = np.asarray(sweep["lidar_points"]["lidar2sensor"], dtype=np.float64)
        rotation, shift = lidar2sensor[:3, :3], lidar2sensor[:3, 3]
        # x_lidar = R^T (x_sensor - t); rounded to float32 after each step, as MMDetection3D does.
        with np.errstate(invalid="ignore"):  # points at infinity
            points[:, :3] = points[:, :3] @ rotation
        points[:, :3] -= shift if self.mmdet3d_shift else shift @ rotation
        points[:, _TIME] = timestamp - sweep["timestamp"]
        return points

    @staticmethod
    def _remove_close(points: NDArray[np.float32], radius: float = 1.0) -> NDArray[np.float32]:
        """Return the points that are not within `radius` of the sensor along x and along y."""
        near = (np.abs(points[:, 0]) < radius) & (np.abs(points[:, 1]) < radius)
        return points[~near]
