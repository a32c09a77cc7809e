"""Times of the operators on made-up clouds and boxes, as JSON: `python tests/benchmarks/bench_ops.py [--gpu]`.

The cloud resembles one sweep of a 64-beam LiDAR (most of its 127,000 points within 30 m), the boxes one frame's cars;
`--cloud FILE.bin` times a real sweep instead.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydet3d import ops

PILLARS: dict[str, Any] = {
    "voxel_size": [0.16, 0.16, 4],
    "point_cloud_range": [0, -39.68, -3, 69.12, 39.68, 1],
    "max_num_points": 32,
    "max_voxels": 16000,
}
VOXELS: dict[str, Any] = {
    "voxel_size": [0.05, 0.05, 0.1],
    "point_cloud_range": [0, -40, -3, 70.4, 40, 1],
    "max_num_points": 5,
    "max_voxels": 16000,
}
SWEEPS: dict[str, Any] = {
    "voxel_size": [0.1, 0.1, 0.2],
    "point_cloud_range": [-51.2, -51.2, -5, 51.2, 51.2, 3],
    "max_num_points": 10,
    "max_voxels": 90000,
}


def median_ms(work: Callable[[], object], device: torch.device, repeats: int = 15) -> float:
    """Median time of one call, in milliseconds; the device's own clock is waited for."""
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return round(float(np.median(times[2:])) * 1e3, 3)


def cloud(rng: np.random.Generator, count: int) -> np.ndarray:
    """A made-up sweep, (count, 4) float32, in the order of a spinning scanner: beam by beam."""
    turn = np.sort(rng.uniform(-np.pi, np.pi, (64, count // 64)), axis=1).ravel()
    distance = rng.gamma(2.0, 7.0, turn.shape) + 3
    z = rng.uniform(-1.8, 0.6, turn.shape)
    points = np.stack((distance * np.cos(turn), distance * np.sin(turn), z, rng.random(turn.shape)), axis=1)
    return points.astype(np.float32)


def frame_boxes(rng: np.random.Generator, count: int, spread: float) -> torch.Tensor:
    """Car-sized boxes (count, 7) float32 in a square of `spread` metres."""
    place = rng.uniform(0, spread, (count, 2))
    size = np.array([3.9, 1.6, 1.56]) * rng.uniform(0.9, 1.1, (count, 3))
    rest = (np.full((count, 1), -1.7), size, rng.uniform(-3, 3, (count, 1)))
    return torch.from_numpy(np.concatenate((place, *rest), axis=1).astype(np.float32))


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="run on the GPU instead of the CPU")
    parser.add_argument("--cloud", help="a KITTI .bin file to voxelise")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    device = torch.device("cuda" if args.gpu else "cpu")
    rng = np.random.default_rng(0)
    points = np.fromfile(args.cloud, np.float32).reshape(-1, 4) if args.cloud else cloud(rng, 126_900)
    on_device = torch.from_numpy(points).to(device)
    front = points[(points[:, 0] > 0) & (np.abs(points[:, 1]) < points[:, 0])][:20_000]
    boxes = frame_boxes(rng, 50, 50.0).to(device)
    far, near = frame_boxes(rng, 500, 70.0).to(device), frame_boxes(rng, 500, 3.0).to(device)
    many, scores = frame_boxes(rng, 1000, 40.0).to(device), torch.rand(1000, device=device)
    anchors = ops.nearest_bev(frame_boxes(rng, 107_136, 70.0).to(device))
    bev = [0, 1, 3, 4, 6]
    work: dict[str, Callable[[], object]] = {
        "voxelize_hard pillars": lambda: ops.voxelize_hard(on_device, **PILLARS),
        "voxelize_hard second": lambda: ops.voxelize_hard(on_device, **VOXELS),
        "voxelize_hard nuscenes 0.1": lambda: ops.voxelize_hard(on_device, **SWEEPS),
        "voxelize_dynamic pillars": lambda: ops.voxelize_dynamic(
            on_device, voxel_size=PILLARS["voxel_size"], point_cloud_range=PILLARS["point_cloud_range"]
        ),
        "points_in_boxes tensor 20k x 50": lambda: ops.points_in_boxes(on_device[:20_000], boxes),
        "rotated_iou_bev 500 x 500 over 70 m": lambda: ops.rotated_iou_bev(far[:, bev], far[:, bev]),
        "rotated_iou_bev 500 x 500 all meeting": lambda: ops.rotated_iou_bev(near[:, bev], near[:, bev]),
        "rotated_iou_3d 500 x 500 over 70 m": lambda: ops.rotated_iou_3d(far, far),
        "nms_rotated 1000": lambda: ops.nms_rotated(many[:, bev], scores, 0.2),
        "nms_aligned 1000": lambda: ops.nms_aligned(ops.nearest_bev(many), scores, 0.2),
        "nms_circle 1000": lambda: ops.nms_circle(many, scores, 4.0),
        "aligned_iou 107136 x 20": lambda: ops.aligned_iou(anchors, anchors[:20]),
    }
    if device.type == "cpu":
        host = boxes.numpy()
        work["points_in_boxes numpy 20k x 50"] = lambda: ops.points_in_boxes(front, host)
        work["points_in_boxes numpy 127k x 50"] = lambda: ops.points_in_boxes(points, host)
    result = {
        "device": torch.cuda.get_device_name() if args.gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "points": len(points),
        "median_ms": {name: median_ms(call, device, args.repeats) for name, call in work.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
