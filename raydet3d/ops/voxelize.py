"""Voxelization: hard (the first points of each voxel, up to a limit) and dynamic (all points).

Source: the deterministic hard voxelization that the published PointPillars and SECOND checkpoints were trained with.

Shapes: N points, C features of a point, V voxels, P points of a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def grid_size(voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> tuple[int, int, int]:
    """Return the number of voxels along x, y, z.

    Example:
        >>> grid_size([0.16, 0.16, 4], [0, -39.68, -3, 69.12, 39.68, 1])
        (432, 496, 1)
    """
    low, high = point_cloud_range[:3], point_cloud_range[3:]
    nx, ny, nz = (round((b - a) / size) for a, b, size in zip(low, high, voxel_size, strict=True))
    if min(nx, ny, nz) < 1:
        raise ValueError(f"voxel_size {list(voxel_size)} leaves no voxel in the range {list(point_cloud_range)}")
    return nx, ny, nz


def voxelize_hard(
    points: Tensor,
    *,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_num_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Group points by voxel, keeping at most P points in each of at most V voxels.

    Voxels are numbered in the order of their first points; a voxel keeps its first P points in their order. Once there
    are V voxels no new one is made, but points still enter the existing ones. Points out of range and points that are
    not finite are dropped. A point's voxel is floor((p - low) / size), computed in the type of the points.

    Args:
        points: (N, C) x, y, z and further features.
        voxel_size: Along x, y, z; metres.
        point_cloud_range: x, y, z of the lower and of the upper corner; a point on the upper one is out of range.
        max_num_points: P.
        max_voxels: Maximum of V.

    Returns:
        voxels (V, P, C), zero where a voxel has fewer points; coords (V, 3) int32 as z, y, x; num_points (V,) int32.
    """
    points = points.detach()
    size = grid_size(voxel_size, point_cloud_range)
    if points.device.type == "cpu" and points.dtype in (torch.float32, torch.float64):
        found = _hard_numpy(points.numpy(), voxel_size, point_cloud_range, size, max_num_points, max_voxels)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1]), torch.from_numpy(found[2])
    return _hard_torch(points, voxel_size, point_cloud_range, size, max_num_points, max_voxels)


def voxelize_dynamic(points: Tensor, *, voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> Tensor:
    """Return the voxel of every point.

    Args:
        points: (N, C) x, y, z and further features.
        voxel_size: Along x, y, z; metres.
        point_cloud_range: x, y, z of the lower and of the upper corner.

    Returns:
        (N, 3) int32 as z, y, x; -1, -1, -1 for points out of range.
    """
    cells, inside = _cells(points.detach(), voxel_size, point_cloud_range, grid_size(voxel_size, point_cloud_range))
    coords = torch.where(inside[:, None], cells, -1).int()
    return coords.flip(1)


def _cells(
    points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], size: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return (N, 3) voxel coordinates x, y, z as whole floats, and (N,) whether they lie in the grid."""
    xyz = points[:, :3]
    if xyz.dtype in (torch.float16, torch.bfloat16):
        xyz = xyz.float()
    low = xyz.new_tensor(list(point_cloud_range[:3]))
    cells = ((xyz - low) / xyz.new_tensor(list(voxel_size))).floor_()
    inside = ((cells >= 0) & (cells < xyz.new_tensor(size))).all(dim=1)
    return cells, inside


def _hard_torch(
    points: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    size: tuple[int, int, int],
    max_num_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxelize with one sort, no loop, and one synchronization with the device (for the number of voxels)."""
    nx, ny, nz = size
    cells, inside = _cells(points, voxel_size, point_cloud_range, size)
    x, y, z = torch.where(inside[:, None], cells, 0).long().unbind(1)
    # Points out of range are sorted behind all others.
    key, order = torch.sort(torch.where(inside, (z * ny + y) * nx + x, nx * ny * nz), stable=True)
    counted = key < nx * ny * nz
    begins = counted.clone()
    begins[1:] &= key[1:] != key[:-1]
    group = begins.cumsum(0) - 1  # of each sorted point
    starts = begins.nonzero().squeeze(1)
    count = min(len(starts), max_voxels)
    if count == 0:
        empty = points.new_zeros((0, 3), dtype=torch.int32)
        return points.new_zeros((0, max_num_points, points.shape[1])), empty, empty[:, 0]
    # A voxel's number is the number of voxels whose first point is earlier. Points and voxels beyond the limits are
    # written to one more row at the end, which is cut off.
    first = order[starts]
    is_first = torch.zeros_like(begins)
    is_first[first] = True
    voxel = (is_first.cumsum(0)[first] - 1).clamp_(max=count)
    slot = torch.arange(len(key), device=points.device) - starts[group]
    place = voxel[group] * max_num_points + slot
    has_room = counted & (slot < max_num_points) & (voxel[group] < count)
    voxels = points.new_zeros((count * max_num_points + 1, points.shape[1]))
    voxels[torch.where(has_room, place, count * max_num_points)] = points[order]
    coords = torch.zeros((count + 1, 3), dtype=torch.int32, device=points.device)
    coords[voxel] = torch.stack((z[first], y[first], x[first]), dim=1).int()
    num_points = torch.zeros(count + 1, dtype=torch.int32, device=points.device)
    ends = torch.cat((starts[1:], counted.sum()[None]))
    num_points[voxel] = (ends - starts).clamp_(max=max_num_points).int()
    return voxels[:-1].view(count, max_num_points, -1), coords[:-1], num_points[:-1]


def _hard_numpy(
    points: NDArray[Any],
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    size: tuple[int, int, int],
    max_num_points: int,
    max_voxels: int,
) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    real = points.dtype.type
    inside: NDArray[np.bool_] | None = None
    cells = []
    for axis in range(3):
        cell = (points[:, axis] - real(point_cloud_range[axis])) / real(voxel_size[axis])
        ok = (cell >= 0) & (cell < size[axis])  # before truncation, which would take -0.5 to voxel 0
        inside = ok if inside is None else inside & ok
        cells.append(cell)
    assert inside is not None
    index = np.flatnonzero(inside)
    key = np.zeros(len(index), dtype=np.int64)
    for axis in (2, 1, 0):
        key *= size[axis]
        key += cells[axis][index].astype(np.int64)
    # Sorting (voxel, point) packed into one integer is stable, and numpy's fastest sort.
    bits = max(1, len(points).bit_length())
    key <<= bits
    key |= index
    key.sort()
    order = key & ((1 << bits) - 1)
    key >>= bits
    starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(key)), dtype=bool), key[1:] != key[:-1])))
    counts = np.diff(starts, append=len(key))
    first = order[starts]
    # A voxel's number is the number of voxels whose first point is earlier.
    is_first = np.zeros(len(points), dtype=np.int32)
    is_first[first] = 1
    voxel = (np.cumsum(is_first, dtype=np.int32)[first] - 1).astype(np.int64)
    total = min(len(starts), max_voxels)
    slot = np.arange(len(key)) - np.repeat(starts, counts)
    place = np.repeat(voxel * max_num_points, counts) + slot
    keep = slot < max_num_points
    if len(starts) > max_voxels:
        keep &= np.repeat(voxel < max_voxels, counts)
    voxels = np.zeros((total, max_num_points, points.shape[1]), dtype=points.dtype)
    voxels.reshape(-1, points.shape[1])[place[keep]] = points[order[keep]]
    chosen = voxel < max_voxels
    num_points = np.empty(total, dtype=np.int32)
    num_points[voxel[chosen]] = np.minimum(counts[chosen], max_num_points)
    coords = np.empty((total, 3), dtype=np.int32)
    rest, x = np.divmod(key[starts[chosen]], size[0])
    z, y = np.divmod(rest, size[1])
    coords[voxel[chosen]] = np.stack((z, y, x), axis=1)
    return voxels, coords, num_points
