"""Geometry of points and upright boxes: rotation about z, corners, points in boxes.

Functions take numpy arrays or torch tensors and return the same type. Boxes are (x, y, z of the bottom centre, dx, dy,
dz, yaw) in a frame whose z points up; yaw in radians, counter-clockwise about z, 0 along +x, dx along the heading.

Shapes: N points, K boxes.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A function returns the type that it is given.
Array = TypeVar("Array", NDArray[Any], Tensor)

# Corner signs, x slowest: the eight corners of a box around the middle of its bottom face.
_SIGN_X = (-0.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, 0.5)
_SIGN_Y = (-0.5, -0.5, 0.5, 0.5, -0.5, -0.5, 0.5, 0.5)
_SIGN_Z = (0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0)

# Pairs of (point, box) that are tested at a time on a GPU; limits the temporaries to about 500 MB.
_PAIRS_PER_STEP = 1 << 25


def limit_period(value: Array, offset: float = 0.5, period: float = 2 * math.pi) -> Array:
    """Bring angles into [-offset * period, (1 - offset) * period) by adding whole periods.

    Args:
        value: Angles in radians, any shape.
        offset: Where the interval begins, as a share of the period below zero.
        period: Length of the interval in radians.

    Returns:
        Angles of the same shape.

    Example:
        >>> limit_period(np.array([0.0, 4.0, -4.0])).round(4).tolist()
        [0.0, -2.2832, 2.2832]
    """
    floor = torch.floor if isinstance(value, Tensor) else np.floor
    return value - floor(value / period + offset) * period


def rotate_z(points: Array, angle: Array | float) -> Array:
    """Rotate points counter-clockwise about the z axis; columns after y are copied.

    Args:
        points: (..., 2+) x, y and further columns.
        angle: Radians; a number, or an array that broadcasts with `points[..., 0]`.

    Returns:
        A new array of the points' shape and dtype.

    Example:
        >>> rotate_z(np.array([[1.0, 0.0, 5.0]]), math.pi / 2).round(6).tolist()
        [[0.0, 1.0, 5.0]]
    """
    cos: Any
    sin: Any
    if isinstance(points, Tensor):
        if isinstance(angle, Tensor):
            cos, sin = torch.cos(angle), torch.sin(angle)
        else:
            cos, sin = math.cos(angle), math.sin(angle)
        x, y = points[..., 0], points[..., 1]
        turned = torch.stack((x * cos - y * sin, x * sin + y * cos), dim=-1).to(points.dtype)
        rest = points[..., 2:].expand(*turned.shape[:-1], points.shape[-1] - 2)
        return torch.cat((turned, rest), dim=-1)
    if isinstance(angle, np.ndarray):
        cos, sin = np.cos(angle), np.sin(angle)
    else:
        cos, sin = math.cos(angle), math.sin(angle)
    x, y = points[..., 0], points[..., 1]
    shape: tuple[int, ...] = np.broadcast_shapes(x.shape, np.shape(cos))
    out = np.empty((*shape, points.shape[-1]), dtype=points.dtype)
    out[..., 0] = x * cos - y * sin
    out[..., 1] = x * sin + y * cos
    out[..., 2:] = points[..., 2:]
    return out


def box_corners(boxes: Array) -> Array:
    """Return the corners of upright boxes.

    The order is MMDetection3D's: x slowest, and around each end face (y0 z0, y0 z1, y1 z1, y1 z0).

    Args:
        boxes: (K, 7+) x, y, z (bottom), dx, dy, dz, yaw.

    Returns:
        (K, 8, 3) corners in the frame of the boxes.
    """
    if isinstance(boxes, Tensor):
        signs = boxes.new_tensor((_SIGN_X, _SIGN_Y, _SIGN_Z)).T
        around = boxes[:, None, 3:6] * signs
        return rotate_z(around, boxes[:, None, 6]) + boxes[:, None, :3]
    around_np = boxes[:, None, 3:6] * np.array((_SIGN_X, _SIGN_Y, _SIGN_Z), dtype=boxes.dtype).T
    return rotate_z(around_np, boxes[:, None, 6]) + boxes[:, None, :3]  # type: ignore[no-any-return]


def bev_corners(boxes: Array) -> Array:
    """Return the corners of bird's-eye-view rectangles, counter-clockwise from (-dx, -dy).

    Args:
        boxes: (K, 5) centre x, y, dx, dy, yaw.

    Returns:
        (K, 4, 2) corners.
    """
    signs = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    if isinstance(boxes, Tensor):
        around = boxes[:, None, 2:4] * boxes.new_tensor(signs)
        return rotate_z(around, boxes[:, None, 4]) + boxes[:, None, :2]
    around_np = boxes[:, None, 2:4] * np.array(signs, dtype=boxes.dtype)
    return rotate_z(around_np, boxes[:, None, 4]) + boxes[:, None, :2]  # type: ignore[no-any-return]


def xywhr2xyxyr(boxes: Tensor) -> Tensor:
    """Turn bird's-eye-view rectangles (..., 5) centre x, y, dx, dy, yaw into x1, y1, x2, y2, yaw."""
    half = boxes[..., 2:4] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half, boxes[..., 4:5]), dim=-1)


def points_in_boxes(points: Array, boxes: Array, *, closed: bool = False) -> Array:
    """Test which points lie in which boxes.

    Args:
        points: (N, 3+) coordinates.
        boxes: (K, 7+) x, y, z (bottom), dx, dy, dz, yaw.
        closed: False counts points strictly inside all six faces (MMDetection3D's `points_in_rbbox`, for the database
            and object sampling); True also counts points on the bottom and top faces (its CUDA operator).

    Returns:
        (N, K) booleans.
    """
    if isinstance(points, Tensor):
        points, boxes = points.detach(), boxes.detach().to(points)
        if points.device.type == "cpu" and points.dtype in (torch.float32, torch.float64):
            return torch.from_numpy(_points_in_boxes_sparse(points.numpy(), boxes.numpy(), closed))
        return _points_in_boxes_dense(points, boxes, closed)
    return _points_in_boxes_sparse(points, boxes, closed)


def _points_in_boxes_dense(points: Tensor, boxes: Tensor, closed: bool) -> Tensor:
    """Test every point against every box; for GPUs, where this is faster than sorting."""
    cos, sin = torch.cos(boxes[:, 6]), torch.sin(boxes[:, 6])
    half = boxes[:, 3:6] / 2  # (K, 3)
    middle_z = boxes[:, 2] + half[:, 2]
    out = torch.empty((len(points), len(boxes)), dtype=torch.bool, device=points.device)
    step = max(1, _PAIRS_PER_STEP // max(1, len(boxes)))
    for begin in range(0, len(points), step):
        x, y, z = points[begin : begin + step, :3, None].unbind(1)  # (n, 1)
        x, y, z = x - boxes[:, 0], y - boxes[:, 1], (z - middle_z).abs_()
        along = (x * cos).add_(y * sin).abs_()
        across = (y * cos).sub_(x * sin).abs_()
        inside = (along < half[:, 0]).logical_and_(across < half[:, 1])
        inside &= (z <= half[:, 2]) if closed else (z < half[:, 2])
        out[begin : begin + step] = inside
    return out


def _points_in_boxes_sparse(points: NDArray[Any], boxes: NDArray[Any], closed: bool) -> NDArray[Any]:
    """Test every box against the points near it; for CPUs."""
    boxes = boxes.astype(points.dtype, copy=False)
    out = np.zeros((len(points), len(boxes)), dtype=bool)
    if not len(points) or not len(boxes):
        return out
    half = boxes[:, 3:6] / 2
    middle_z = boxes[:, 2] + half[:, 2]
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    # Few points are near a box: sort them along x once, and test only each box's slice. One millimetre more than the
    # radius, so that rounding far from the origin drops no point.
    reach = np.hypot(half[:, 0], half[:, 1]) + boxes.dtype.type(1e-3)
    by_x = np.argsort(points[:, 0])
    xs = points[by_x, 0]
    begin = np.searchsorted(xs, boxes[:, 0] - reach, side="left")
    count = np.searchsorted(xs, boxes[:, 0] + reach, side="right") - begin
    box = np.repeat(np.arange(len(boxes)), count)
    point = by_x[np.arange(len(box)) + np.repeat(begin - (np.cumsum(count) - count), count)]
    y = points[point, 1] - boxes[box, 1]
    near = np.flatnonzero(np.abs(y) <= reach[box])
    box, point, y = box[near], point[near], y[near]
    x = points[point, 0] - boxes[box, 0]
    z = np.abs(points[point, 2] - middle_z[box])
    c, s = cos[box], sin[box]
    inside = (np.abs(x * c + y * s) < half[box, 0]) & (np.abs(y * c - x * s) < half[box, 1])
    inside &= (z <= half[box, 2]) if closed else (z < half[box, 2])
    out[point[inside], box[inside]] = True
    return out
