"""Rigid transforms and quaternions (w, x, y, z), as nuScenes' tables hold them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def quaternion_to_matrix(rotation: Sequence[float], translation: Sequence[float] = (0.0, 0.0, 0.0)) -> Floats:
    """Return the (4, 4) matrix that rotates by a quaternion (of any length above 0), then translates."""
    w, x, y, z = np.asarray(rotation, dtype=np.float64) / np.linalg.norm(rotation)
    matrix = np.eye(4)
    matrix[:3, :3] = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    matrix[:3, 3] = translation
    return matrix


def invert(matrix: Floats) -> Floats:
    """Return the inverse of a rigid (4, 4) transform."""
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse


def multiply(first: Floats, second: Floats) -> Floats:
    """Return the Hamilton product of quaternions: the rotation `second`, then `first`.

    Args:
        first: (..., 4).
        second: (..., 4).

    Returns:
        (..., 4), broadcast.
    """
    a, b, c, d = np.moveaxis(first, -1, 0)
    w, x, y, z = np.moveaxis(second, -1, 0)
    rows = (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )
    return np.stack(np.broadcast_arrays(*rows), axis=-1)


def conjugate(quaternion: Floats) -> Floats:
    """Return the inverse rotation of unit quaternions (..., 4)."""
    return np.asarray(quaternion * np.array([1.0, -1.0, -1.0, -1.0]))


def tait_bryan_yaw(quaternion: Floats) -> Floats:
    """Return the yaw of unit quaternions (..., 4) as the z-y'-x'' angles of pyquaternion define it.

    MMDetection3D's converter takes it for the yaw of a box; under a tilt it differs slightly from the direction of the
    rotated x axis.
    """
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    return np.asarray(np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z)))


def matrix_to_quaternion(matrix: Floats) -> Floats:
    """Return unit quaternions of rotations.

    Args:
        matrix: (..., 3, 3), rotations up to rounding.

    Returns:
        (..., 4) with w of at least 0.
    """
    m = matrix
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    # Four times the products of the components, from which the largest component's row is the most accurate.
    products = np.empty((*m.shape[:-2], 4, 4))
    products[..., 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        products[..., i + 1, i + 1] = 1 - trace + 2 * m[..., i, i]
        products[..., 0, i + 1] = products[..., i + 1, 0] = m[..., k, j] - m[..., j, k]
        products[..., i + 1, j + 1] = products[..., j + 1, i + 1] = m[..., j, i] + m[..., i, j]
    best = np.diagonal(products, axis1=-2, axis2=-1).argmax(-1)
    row = np.take_along_axis(products, best[..., None, None], axis=-2)[..., 0, :]
    unit = row / np.linalg.norm(row, axis=-1, keepdims=True)
    return np.asarray(np.where(unit[..., :1] < 0, -unit, unit))
