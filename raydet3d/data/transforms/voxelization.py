"""Group a sample's points into voxels in the loader workers, instead of on the model's device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from raydet3d.data.pipeline import Sample, Transform
from raydet3d.errors import InputError
from raydet3d.ops import grid_size, voxelize_dynamic, voxelize_hard
from raydet3d.registry import TRANSFORMS


@TRANSFORMS.register_module()
class VoxelizePoints(Transform):
    """Set `voxels` from `points`; `Det3DDataPreprocessor` uses them instead of making its own.

    The arguments are those of the preprocessor's `voxel_layer`, with the same values; place it before
    `Pack3DDetInputs`, whose keys need `points` and `voxels`.

    Args:
        max_num_points: Maximum number of points of a voxel.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        voxel_size: Along x, y, z; metres.
        max_voxels: Maximum number of voxels of a frame, or one for training and one for testing.
        deterministic: Accepted for published configs; voxelization is always deterministic.
        voxel_type: "hard" or "dynamic", as the preprocessor's.
        training: Which of two `max_voxels` is used.
    """

    def __init__(
        self,
        max_num_points: int,
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
        max_voxels: int | Sequence[int] = 20000,
        deterministic: bool = True,
        voxel_type: str = "hard",
        training: bool = True,
    ) -> None:
        if voxel_type not in ("hard", "dynamic"):
            raise InputError(f"VoxelizePoints: voxel_type must be 'hard' or 'dynamic', got {voxel_type!r}")
        self.max_num_points = max_num_points
        self.point_cloud_range = point_cloud_range
        self.voxel_size = voxel_size
        self.max_voxels = max_voxels if isinstance(max_voxels, int) else max_voxels[0 if training else 1]
        self.voxel_type = voxel_type
        for key in ("max_num_points", "max_voxels"):
            if voxel_type == "hard" and getattr(self, key) < 1:
                raise InputError(f"VoxelizePoints: {key} must be at least 1, got {getattr(self, key)}")
        try:
            grid_size(voxel_size, point_cloud_range)
        except ValueError as error:
            raise InputError(f"VoxelizePoints: {error}") from None

    def transform(self, results: Sample) -> Sample:
        """Set `voxels`: a dict of `voxels` (V, P, C), `num_points` (V,), `coors` (V, 3) as z, y, x.

        For dynamic voxels it has the points in range, `voxels` (N, C), and the voxel of each, `coors` (N, 3).
        """
        points = torch.from_numpy(np.ascontiguousarray(results["points"]))
        layer = {"voxel_size": self.voxel_size, "point_cloud_range": self.point_cloud_range}
        if self.voxel_type == "dynamic":
            coors = voxelize_dynamic(points, **layer)
            known = (coors[:, 0] >= 0).nonzero().squeeze(1)
            results["voxels"] = {"voxels": points[known], "coors": coors[known]}
            return results
        voxels, coors, num_points = voxelize_hard(
            points, **layer, max_num_points=self.max_num_points, max_voxels=self.max_voxels
        )
        results["voxels"] = {"voxels": voxels, "num_points": num_points, "coors": coors}
        return results
