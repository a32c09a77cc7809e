"""Base class of the encoders of voxels and pillars: offsets of points to their voxel, added to the points' features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.ops import grid_size


class PointOffsetEncoder(nn.Module):
    """Base class of encoders that add offsets to the features of each point before their layers.

    Args:
        in_channels: Features of a point.
        feat_channels: Channels of the layers.
        with_distance: Add the distance to the origin.
        with_cluster_center: Add the offset to the mean of the voxel's points.
        with_voxel_center: Add the offset to the voxel's centre.
        voxel_size: Along x, y, z; metres.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        mode: Pooling over the points of a voxel.
        modes: Values of `mode` that the class supports.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: Sequence[int],
        *,
        with_distance: bool,
        with_cluster_center: bool,
        with_voxel_center: bool,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        mode: str = "max",
        modes: Sequence[str] = ("max", "avg"),
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if mode not in modes:
            raise InputError(f"{name}: mode must be {' or '.join(map(repr, modes))}, got {mode!r}")
        if not feat_channels:
            raise InputError(f"{name}: feat_channels needs at least one layer, got none")
        grid_size(voxel_size, point_cloud_range)  # raises if there is no voxel
        self.with_distance = with_distance
        self.with_cluster_center = with_cluster_center
        self.with_voxel_center = with_voxel_center
        self.voxel_size = tuple(map(float, voxel_size))
        self.low = tuple(map(float, point_cloud_range[:3]))
        self.mode = mode
        self.channels = [
            in_channels + with_distance + 3 * with_cluster_center + 3 * with_voxel_center,
            *feat_channels,
        ]
        """Channels before the first layer and after each."""

    def voxel_centers(self, coors: Tensor, like: Tensor) -> Tensor:
        """Return the centres of voxels, (V, 3), LiDAR frame, metres.

        Args:
            coors: (V, 4) batch, z, y, x.
            like: Tensor of the wanted dtype and device.
        """
        size = like.new_tensor(self.voxel_size)
        first = like.new_tensor([s / 2 + low for s, low in zip(self.voxel_size, self.low, strict=True)])
        return coors[:, 1:].flip(1).to(like) * size + first
