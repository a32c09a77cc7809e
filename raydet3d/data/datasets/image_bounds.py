"""Bounds of a box's projection inside of an image."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Corners of a box, all pairs of them.
_PAIRS = np.array(list(combinations(range(8), 2)))


def bounds_in_image(points: Floats, image_size: tuple[int, int]) -> list[float] | None:
    """Return x0, y0, x1, y1 around the part of the points' convex hull inside the image; None where that has no area.

    The extremes of that part are ends of hull edges cut at the image's border, or image corners inside of the hull;
    cutting the lines between all pairs of points gives the same bounds without finding the hull first.

    Args:
        points: (N, 2) pixels.
        image_size: Height and width.
    """
    if len(points) < 3:
        return None
    high = np.array([image_size[1], image_size[0]], dtype=np.float64)
    pairs = _PAIRS[(len(points) > _PAIRS).all(1)]
    start, way = points[pairs[:, 0]], points[pairs[:, 1]] - points[pairs[:, 0]]
    # Liang-Barsky: the part of each line between the image's borders, as an interval of its length.
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = -start / way, (high - start) / way
    inside = (start >= 0) & (start <= high)
    enter = np.where(way == 0, np.where(inside, -np.inf, np.inf), np.minimum(first, last)).max(1).clip(min=0)
    leave = np.where(way == 0, np.where(inside, np.inf, -np.inf), np.maximum(first, last)).min(1).clip(max=1)
    cut = enter <= leave
    start, way = start[cut], way[cut]
    ends = [start + enter[cut, None] * way, start + leave[cut, None] * way]
    ends += [
        corner[None] for corner in np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * high if _is_in_hull(corner, points)
    ]
    seen = np.concatenate(ends).clip(0, high)
    if not len(seen) or (seen.max(0) <= seen.min(0)).any():
        return None
    return [*seen.min(0).tolist(), *seen.max(0).tolist()]


def _is_in_hull(point: Floats, points: Floats) -> bool:
    """Return whether a point lies in the convex hull of others: no half plane through it is free of them."""
    angles = np.sort(np.arctan2(*(points - point).T[::-1]))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    return bool(gaps.max() <= np.pi)
