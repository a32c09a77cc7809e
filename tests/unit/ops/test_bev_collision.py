"""The collision test, against shapely's polygons."""

from __future__ import annotations

import numpy as np
from shapely.geometry import Polygon

from raydet3d.ops.bev_collision import overlaps
from raydet3d.ops.points import bev_corners


def test_random_rectangles_agree_with_shapely() -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform((-6, -6, 0.2, 0.2, -4), (6, 6, 6, 3, 4), (90, 5))
    corners = bev_corners(boxes)
    shapes = [Polygon(corner) for corner in corners]
    wanted = np.array([[one.intersection(other).area > 0 for other in shapes] for one in shapes])
    found = overlaps(corners, corners)
    assert (found == wanted).all()
    assert 0.05 < found.mean() < 0.6


def test_touching_apart_inside_and_nothing() -> None:
    square = bev_corners(np.array([[0.0, 0, 2, 2, 0]]))
    others = bev_corners(np.array([[2.0, 0, 2, 2, 0], [1.9, 0, 2, 2, 0], [0.1, 0, 0.2, 0.2, 1], [5, 5, 1, 1, 0]]))
    assert overlaps(square, others).tolist() == [[False, True, True, False]]
    assert overlaps(square, square).all()
    assert overlaps(square, others[:0]).shape == (1, 0)
    assert overlaps(others[:0], others).shape == (0, 4)
