"""KITTI objects of many frames as columns, and the overlaps of objects in the same frame.

Legend: K objects · G ground truths · D detections · P pairs of both in one frame. Boxes are the label files':
camera frame, location at the bottom's centre with y down, dimensions (l, h, w), angles in radians.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from raydet3d.ops.iou import pair_iou

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Column = Floats | npt.NDArray[np.str_]
Annotation = dict[str, Column]
"""A frame's objects as columns: `name`, `truncated`, `occluded`, `alpha`, `bbox`, `dimensions`, `location`, ..."""

# Pairs processed at once: bounds the memory of a large evaluation to some tens of MB.
BLOCK = 1_000_000


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of all frames, sorted by frame.

    Args:
        frame: (K,) position of the object's frame.
        name: (K,) class, in lower case.
        truncated: (K,) share outside the image, 0 to 1.
        occluded: (K,) 0 visible to 3 unknown.
        alpha: (K,) observation angle.
        bbox: (K, 4) x1, y1, x2, y2 in pixels.
        size: (K, 3) l, h, w in metres.
        location: (K, 3) x, y, z of the bottom's centre in metres.
        yaw: (K,) rotation_y.
        score: (K,) confidence; 0 for ground truth.
    """

    frame: Ints
    name: npt.NDArray[np.str_]
    truncated: Floats
    occluded: Floats
    alpha: Floats
    bbox: Floats
    size: Floats
    location: Floats
    yaw: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def from_frames(cls, frames: Sequence[Mapping[str, Column]]) -> Self:
        """Join the columns of all frames.

        Args:
            frames: KITTI annotations: `name`, `truncated`, `occluded`, `alpha`, `bbox`, `dimensions`
                (l, h, w), `location`, `rotation_y` and, for detections, `score`.
        """
        counts = [len(frame["name"]) for frame in frames]

        def column(key: str, *width: int) -> Floats:
            parts = [np.asarray(frame[key], float).reshape(-1, *width) for frame in frames if len(frame["name"])]
            return np.concatenate(parts) if parts else np.zeros((0, *width))

        scored = all("score" in frame for frame in frames)
        return cls(
            frame=np.repeat(np.arange(len(frames)), counts),
            name=np.array([str(name).lower() for frame in frames for name in frame["name"]], dtype=np.str_),
            truncated=column("truncated"),
            occluded=column("occluded"),
            alpha=column("alpha"),
            bbox=column("bbox", 4),
            size=column("dimensions", 3),
            location=column("location", 3),
            yaw=column("rotation_y"),
            score=column("score") if scored else np.zeros(sum(counts)),
        )


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Overlapping pairs of a ground truth and a detection of the same frame, sorted by both.

    Args:
        truth: (P,) position of the ground truth.
        found: (P,) position of the detection.
        by_kind: For `bbox`, `bev` and `3d` the intersection over union, (P,); for `share` the part of the
            detection's 2D box that the ground truth's covers, (P,).
    """

    truth: Ints
    found: Ints
    by_kind: Mapping[str, Floats]

    def above(self, kind: str, least: float) -> tuple[Ints, Ints, Floats]:
        """Return pairs (ground truth, detection, overlap) whose overlap of a kind exceeds `least`."""
        value = self.by_kind[kind]
        keep = value > least
        return self.truth[keep], self.found[keep], value[keep]


def measure(truth: Objects, found: Objects, *, boxes_3d: bool) -> Overlaps:
    """Measure the overlaps of all ground truths and detections of the same frame.

    Args:
        truth: G ground truths, DontCare regions among them.
        found: D detections.
        boxes_3d: Whether to measure `bev` and `3d` besides `bbox` and `share`.
    """
    kinds = ("bbox", "share", "bev", "3d") if boxes_3d else ("bbox", "share")
    blocks: dict[str, list[npt.NDArray[Any]]] = {key: [] for key in ("truth", "found", *kinds)}
    for g, d in _pairs(truth, found):
        values = _overlap_2d(truth.bbox[g], found.bbox[d])
        if boxes_3d:
            values |= _overlap_3d(truth, found, g, d)
        keep = np.logical_or.reduce([value > 0 for value in values.values()])
        for key, value in {"truth": g, "found": d, **values}.items():
            blocks[key].append(value[keep])
    joined = {key: np.concatenate(parts) if parts else np.zeros(0) for key, parts in blocks.items()}
    return Overlaps(joined.pop("truth").astype(np.int64), joined.pop("found").astype(np.int64), by_kind=joined)


def _pairs(truth: Objects, found: Objects) -> Iterator[tuple[Ints, Ints]]:
    """Yield every (ground truth, detection) of the same frame, in blocks, ordered by ground truth."""
    num_frames = int(max(truth.frame.max(initial=-1), found.frame.max(initial=-1))) + 1
    per_frame = np.bincount(found.frame, minlength=num_frames)
    first = np.cumsum(per_frame) - per_frame
    partners = per_frame[truth.frame]  # (G,)
    before = np.cumsum(partners) - partners
    start = 0
    while start < len(truth):
        stop = max(int(np.searchsorted(before, before[start] + BLOCK)), start + 1)
        rows = np.arange(start, stop)
        g = np.repeat(rows, partners[rows])
        d = np.arange(len(g)) - (before[g] - before[start]) + first[truth.frame[g]]
        yield g, d
        start = stop


def _overlap_2d(a: Floats, b: Floats) -> dict[str, Floats]:
    """Return IoU of image boxes pair by pair, and the share of `b` inside `a`; all (P,)."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    area = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    area_a, area_b = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (a, b))
    return {"bbox": _ratio(area, area_a + area_b - area), "share": _ratio(area, area_b)}


def _overlap_3d(truth: Objects, found: Objects, g: Ints, d: Ints) -> dict[str, Floats]:
    """IoU in the ground plane and in space, pair by pair; both (P,)."""
    a, b = truth.size[g], found.size[d]
    away = truth.location[g] - found.location[d]
    reach = (np.hypot(a[:, 0], a[:, 2]) + np.hypot(b[:, 0], b[:, 2])) / 2
    near = np.flatnonzero((away[:, 0] ** 2 + away[:, 2] ** 2 < reach**2) & (a > 0).all(1) & (b > 0).all(1))
    bev, solid = np.zeros(len(g)), np.zeros(len(g))
    if len(near):
        g, d, a, b = g[near], d[near], a[near], b[near]
        share = pair_iou(_flat(truth), _flat(found), torch.from_numpy(g), torch.from_numpy(d)).numpy()
        bev[near] = share
        area_a, area_b = a[:, 0] * a[:, 2], b[:, 0] * b[:, 2]
        ground = share / (1 + share) * (area_a + area_b)  # share = ground / (area_a + area_b - ground)
        # y points down: a box reaches from y - h to y.
        low_a, low_b = truth.location[g, 1], found.location[d, 1]
        shared = np.minimum(low_a, low_b) - np.maximum(low_a - a[:, 1], low_b - b[:, 1])
        volume = ground * np.maximum(shared, 0.0)
        solid[near] = _ratio(volume, area_a * a[:, 1] + area_b * b[:, 1] - volume)
    return {"bev": bev, "3d": solid}


def _flat(objects: Objects) -> torch.Tensor:
    """(K, 5) boxes seen from above as (x, z, l, w, angle from x to z); rotation_y turns the other way."""
    place, size = objects.location, objects.size
    return torch.from_numpy(np.stack([place[:, 0], place[:, 2], size[:, 0], size[:, 2], -objects.yaw], 1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, 0 where the whole is not positive."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
