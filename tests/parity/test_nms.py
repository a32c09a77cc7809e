"""Suppression against a loop over boxes and shapely's polygons."""

import numpy as np
import pytest
import shapely
import torch
from shapely import affinity

from raydet3d.ops import nms_aligned, nms_circle, nms_rotated, rotated_iou_bev
from raydet3d.ops.nms import suppress_fixpoint, suppress_greedy


def scene(seed: int, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Detections as a head gives them: heaps of almost equal boxes round a few objects, scores with ties."""
    rng = np.random.default_rng(seed)
    objects = np.concatenate(
        (rng.uniform(0, 25, (12, 2)), rng.uniform([3.4, 1.4], [4.4, 1.8], (12, 2)), rng.uniform(-3, 3, (12, 1))), axis=1
    )
    boxes = objects[rng.integers(0, 12, count)] + rng.normal(0, [0.4, 0.4, 0.1, 0.1, 0.2], (count, 5))
    return boxes.astype(np.float32), rng.integers(1, 40, count).astype(np.float32) / 40


def brute_force(scores: np.ndarray, conflict) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not any(conflict(k, i) for k in kept):
            kept.append(i)
    return kept


def shape(box: np.ndarray):
    x, y, dx, dy, yaw = box.astype(np.float64)
    straight = shapely.box(x - dx / 2, y - dy / 2, x + dx / 2, y + dy / 2)
    return affinity.rotate(straight, yaw, origin=(x, y), use_radians=True)


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rotated(threshold: float, seed: int) -> None:
    boxes, scores = scene(seed)
    shapes = [shape(box) for box in boxes]

    def conflict(kept: int, other: int) -> bool:
        shared = shapes[kept].intersection(shapes[other]).area
        return shared / (shapes[kept].area + shapes[other].area - shared) > threshold

    expected = brute_force(scores, conflict)
    assert 5 < len(expected) < 120
    found = nms_rotated(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert found.tolist() == expected
    best = nms_rotated(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, post_max=6)
    assert best.tolist() == expected[:6]


def test_rotated_with_pre_max() -> None:
    boxes, scores = scene(4)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:50]
    among = nms_rotated(torch.from_numpy(boxes[order]), torch.from_numpy(scores[order]), 0.1)
    found = nms_rotated(torch.from_numpy(boxes), torch.from_numpy(scores), 0.1, pre_max=50)
    assert found.tolist() == [order[i] for i in among]


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_aligned(threshold: float) -> None:
    boxes, scores = scene(5)
    corners = np.concatenate((boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2), axis=1)
    shapes = [shapely.box(*corner) for corner in corners.astype(np.float64)]

    def conflict(kept: int, other: int) -> bool:
        shared = shapes[kept].intersection(shapes[other]).area
        return shared / shapes[kept].union(shapes[other]).area > threshold

    found = nms_aligned(torch.from_numpy(corners), torch.from_numpy(scores), threshold)
    assert found.tolist() == brute_force(scores, conflict)


@pytest.mark.parametrize("threshold", [0.175, 4.0, 12.0])
def test_circle(threshold: float) -> None:
    boxes, scores = scene(6)

    def conflict(kept: int, other: int) -> bool:
        dx, dy = boxes[kept, 0] - boxes[other, 0], boxes[kept, 1] - boxes[other, 1]
        return dx * dx + dy * dy <= threshold

    found = nms_circle(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert found.tolist() == brute_force(scores, conflict)


def test_fixpoint_on_real_overlaps() -> None:
    for seed in range(6):
        boxes, _ = scene(seed, count=400)
        overlaps = rotated_iou_bev(torch.from_numpy(boxes), torch.from_numpy(boxes))
        for threshold in (0.01, 0.1, 0.5, 0.8):
            assert torch.equal(suppress_fixpoint(overlaps > threshold), suppress_greedy(overlaps > threshold))
