"""Rotated overlap against shapely's polygons, on random boxes and on those that break clipping algorithms."""

import itertools
import math

import numpy as np
import pytest
import shapely
import torch
from shapely import affinity

from raydet3d.ops import rotated_intersection_bev, rotated_iou_3d, rotated_iou_bev
from tests.kit.close import assert_close

TOLERANCE = 1e-4


def polygons(boxes: np.ndarray) -> np.ndarray:
    """Shapely's own boxes, turned and moved by shapely, in double precision."""
    found = []
    for x, y, dx, dy, yaw in boxes.astype(np.float64):
        straight = shapely.box(-dx / 2, -dy / 2, dx / 2, dy / 2)
        turned = affinity.rotate(straight, yaw, origin=(0, 0), use_radians=True)
        found.append(affinity.translate(turned, x, y))
    return np.array(found, dtype=object)


def reference(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) shared area and IoU."""
    first, second = polygons(one), polygons(two)
    # Snapped to a nanometre: without a grid, GEOS 3.14 answers with a whole box for one of the touching pairs below.
    shared = shapely.area(shapely.intersection(first[:, None], second[None], grid_size=1e-9))
    size = [boxes[:, 2].astype(np.float64) * boxes[:, 3].astype(np.float64) for boxes in (one, two)]
    whole = size[0][:, None] + size[1] - shared
    return shared, np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def check(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    shared, iou = reference(one, two)
    a, b = torch.from_numpy(one), torch.from_numpy(two)
    assert_close(rotated_iou_bev(a, b), iou, atol=TOLERANCE, name="IoU")
    assert_close(rotated_iou_bev(b, a), iou.T, atol=TOLERANCE, name="IoU the other way round")
    # Areas have the precision of their dtype: 1e-4 of the smaller box and what float32 can hold.
    assert_close(rotated_intersection_bev(a, b), shared, atol=1e-6, rtol=TOLERANCE, name="area")
    return iou


def random_boxes(rng: np.random.Generator, count: int, spread: float, size: tuple[float, float]) -> np.ndarray:
    rows = [rng.uniform(0, spread, (count, 2)), rng.uniform(*size, (count, 2)), rng.uniform(-10, 10, (count, 1))]
    return np.concatenate(rows, axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 70.0, 1000.0])
def test_random(dtype: type, offset: float) -> None:
    rng = np.random.default_rng(11)
    boxes = random_boxes(rng, 90, 9.0, (0.3, 6.0))
    boxes[:, :2] += (offset, -offset)
    boxes = boxes.astype(dtype)
    iou = check(boxes[:45], boxes[45:])
    assert (iou > 0).mean() > 0.2
    assert (iou == 0).mean() > 0.2


def test_long_and_thin() -> None:
    rng = np.random.default_rng(12)
    boxes = random_boxes(rng, 50, 20.0, (0.05, 0.2))
    boxes[:, 2] = rng.uniform(10, 70, 50)
    boxes = boxes.astype(np.float32)
    assert (check(boxes, boxes) > 0).mean() > 0.3


def relatives() -> dict[str, list[tuple[float, ...]]]:
    """Boxes that stand in an awkward relation to (0, 0, 4, 2, 0): dx, dy, size, size, turn relative to it."""
    return {
        "the same": [(0, 0, 4, 2, 0)],
        "turned round": [(0, 0, 4, 2, math.pi), (0, 0, 4, 2, -math.pi), (0, 0, 4, 2, 2 * math.pi)],
        "turned by a right angle": [(0, 0, 4, 2, math.pi / 2), (0, 0, 2, 4, math.pi / 2), (0, 0, 2, 4, -math.pi / 2)],
        "touching along an edge": [(4, 0, 4, 2, 0), (0, 2, 4, 2, 0), (3, 0, 2, 4, math.pi / 2), (4, 1, 4, 2, 0)],
        "touching at a corner": [(4, 2, 4, 2, 0), (-4, 2, 4, 2, math.pi), (2 + math.sqrt(2), 0, 2, 2, math.pi / 4)],
        "inside": [(0, 0, 2, 1, 0), (0.5, 0.2, 1, 1, 0.7), (0, 0, 1e-3, 1e-3, 0.1), (0, 0, 2, 2, math.pi / 4)],
        "inside, sharing edges": [(0, 0, 4, 1, 0), (0.5, 0, 3, 2, 0), (1, 0.5, 2, 1, 0), (-1, 0, 2, 2, math.pi / 2)],
        "around": [(0, 0, 8, 4, 0), (0, 0, 8, 8, 0.4), (0, 0, 4, 4, 0), (0, 0, 1e4, 1e4, 0.3)],
        "half of it": [(2, 0, 4, 2, 0), (0, 1, 4, 2, 0), (2, 1, 4, 2, 0), (-2, 0, 4, 2, math.pi)],
        "a cross": [(0, 0, 1, 8, 0), (0, 0, 8, 1, math.pi / 2), (0, 0, 8, 0.5, math.pi / 4)],
        "a corner on an edge": [(2, 0, 2, 2, math.pi / 4), (0, 1, 1, 1, math.pi / 4), (2, 1, 2, 2, math.pi / 4)],
        "all but the same": [
            (1e-6, 0, 4, 2, 0), (0, 0, 4, 2, 1e-7), (0, 0, 4.00001, 2, 0), (1e-3, 1e-3, 4, 2, 1e-3),
            (0, 0, 4, 2, math.pi / 2 + 1e-6), (0, 1e-5, 4, 2, math.pi + 1e-5),
        ],
        "without an area": [(0, 0, 0, 0, 0), (0, 0, 4, 0, 0), (1, 0, 0, 2, 0), (0, 0, 4, 0, 0.5)],
    }  # fmt: skip


PLACES = [(0.0, 0.0), (70.3, -39.9), (-51.2, 0.1)]
TURNS = [0.0, 0.3, 1.57, math.pi / 2, math.pi / 4, -3.1]


@pytest.mark.parametrize("kind", relatives())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate(kind: str, dtype: type) -> None:
    for (px, py), turn in itertools.product(PLACES, TURNS):
        cos, sin = math.cos(turn), math.sin(turn)
        base = np.array([[px, py, 4, 2, turn]], dtype)
        rows = [
            (px + x * cos - y * sin, py + x * sin + y * cos, dx, dy, turn + yaw)
            for x, y, dx, dy, yaw in relatives()[kind]
        ]
        check(base, np.array(rows, dtype))


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e3])
def test_size_does_not_matter(scale: float) -> None:
    rows = np.array([row for rows in relatives().values() for row in rows if max(row[2:4]) < 100], np.float64)
    _, iou = reference(rows, rows)
    rows[:, :4] *= scale
    for dtype in (np.float32, np.float64):
        shrunk = torch.from_numpy(rows.astype(dtype))
        assert_close(rotated_iou_bev(shrunk, shrunk), iou, atol=TOLERANCE)


def test_every_degenerate_box_against_every_other() -> None:
    rows = np.array([row for rows in relatives().values() for row in rows], np.float32)
    check(rows, rows)


def test_invariance() -> None:
    """Moving and turning both boxes, swapping length and width with a quarter turn: nothing changes."""
    rng = np.random.default_rng(13)
    boxes = torch.from_numpy(random_boxes(rng, 40, 6.0, (0.5, 5.0)))
    before = rotated_iou_bev(boxes, boxes)
    assert_close(before.diagonal(), np.ones(40), atol=1e-7)
    assert_close(before, before.T, atol=1e-9)
    turn = 0.77
    moved = boxes.clone()
    moved[:, 0] = boxes[:, 0] * math.cos(turn) - boxes[:, 1] * math.sin(turn) + 55
    moved[:, 1] = boxes[:, 0] * math.sin(turn) + boxes[:, 1] * math.cos(turn) - 33
    moved[:, 4] += turn
    assert_close(rotated_iou_bev(moved, moved), before, atol=1e-7)
    swapped = boxes[:, [0, 1, 3, 2, 4]]
    swapped[:, 4] += math.pi / 2
    assert_close(rotated_iou_bev(swapped, boxes), before, atol=1e-7)


def test_3d() -> None:
    rng = np.random.default_rng(14)
    flat = random_boxes(rng, 60, 6.0, (0.5, 5.0))
    z, height = rng.uniform(-3, 1, 60), rng.uniform(0.5, 3, 60)
    boxes = np.stack((flat[:, 0] + 60, flat[:, 1], z, flat[:, 2], flat[:, 3], height, flat[:, 4]), axis=1)
    boxes = boxes.astype(np.float32)
    shared, _ = reference(boxes[:, [0, 1, 3, 4, 6]], boxes[:, [0, 1, 3, 4, 6]])
    low, high = boxes[:, 2].astype(float), boxes[:, 2].astype(float) + boxes[:, 5]
    both = np.clip(np.minimum(high[:, None], high) - np.maximum(low[:, None], low), 0, None)
    volume = boxes[:, 3:6].astype(float).prod(axis=1)
    iou = shared * both / (volume[:, None] + volume - shared * both)
    assert (iou > 0).mean() > 0.1
    found = torch.from_numpy(boxes)
    assert_close(rotated_iou_3d(found, found), iou, atol=TOLERANCE)
    assert_close(rotated_iou_3d(found, found, mode="iof"), shared * both / volume[:, None], atol=TOLERANCE)
