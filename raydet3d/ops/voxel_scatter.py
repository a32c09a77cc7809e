"""Mean and maximum of the points of each voxel (dynamic voxelization).

Shapes: N points, V voxels, C features.
Source: Zhou et al., "End-to-end multi-view fusion for 3D object detection in LiDAR point clouds", CoRL 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VoxelGroups:
    """Which points lie in which voxel.

    Attributes:
        coors: (V, 4) batch, z, y, x of each voxel, ascending.
        voxel: (N,) voxel of each point.
        counts: (V,) number of points of each voxel.
    """

    coors: Tensor
    voxel: Tensor
    counts: Tensor

    @classmethod
    def from_points(cls, coors: Tensor) -> VoxelGroups:
        """Group points by their voxels (N, 4), batch, z, y, x; none negative."""
        if not len(coors):
            none = torch.zeros(0, dtype=torch.long, device=coors.device)
            return cls(coors, none, none)
        rows = coors.long()
        extent = rows.amax(dim=0) + 1
        key = rows[:, 0]
        for axis in (1, 2, 3):
            key = key * extent[axis] + rows[:, axis]
        unique, voxel, counts = torch.unique(key, return_inverse=True, return_counts=True)
        columns = []
        for axis in (3, 2, 1):
            columns.append(unique % extent[axis])
            unique = torch.div(unique, extent[axis], rounding_mode="floor")
        found = torch.stack((unique, *reversed(columns)), dim=1)
        return cls(found.to(coors.dtype), voxel, counts)

    def mean(self, features: Tensor) -> Tensor:
        """Average the features (N, C) of the points of each voxel; (V, C)."""
        total = features.new_zeros(len(self.counts), features.shape[1]).index_add(0, self.voxel, features)
        return total / self.counts[:, None].to(features)

    def max(self, features: Tensor) -> Tensor:
        """Return the maximum of the features (N, C) of the points of each voxel; (V, C)."""
        index = self.voxel[:, None].expand_as(features)
        out = features.new_zeros(len(self.counts), features.shape[1])
        return out.scatter_reduce(0, index, features, "amax", include_self=False)
