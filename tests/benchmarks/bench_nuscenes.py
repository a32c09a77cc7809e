"""nuScenes: seconds of an evaluation of 6,000 frames x 100 boxes, and samples a second of a pipeline with ten sweeps.

    PYTHONPATH=. python tests/benchmarks/bench_nuscenes.py [--town data/nuscenes_town]

The pipeline is measured on the generated town, which is made where it does not exist. CPU seconds are printed beside
wall seconds, because a busy machine only lengthens the latter.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from raydet3d.data.synthetic.nuscenes_town_dataset import NuScenesTownDataset
from raydet3d.metrics.nuscenes_ap import Objects, evaluate

FRAMES, BOXES, TRUTHS = 6000, 100, 40
SHARES = (0.45, 0.07, 0.02, 0.03, 0.02, 0.2, 0.02, 0.02, 0.08, 0.09)


def random_objects(rng: np.random.Generator, each: int) -> Objects:
    """Return `each` boxes of every frame."""
    count = FRAMES * each
    return Objects(
        frame=np.repeat(np.arange(FRAMES), each),
        label=rng.choice(10, count, p=SHARES),
        center=rng.uniform(-40, 40, (count, 3)),
        size=rng.uniform(0.5, 4, (count, 3)),
        yaw=rng.uniform(-3, 3, count),
        velocity=rng.normal(0, 1, (count, 2)),
        attribute=rng.integers(-1, 8, count),
        score=rng.random(count),
    )


def timed(name: str, work: Callable[[], int]) -> None:
    """Print what a piece of work takes, for each of what it counts."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU; {count / wall:.1f} a second, {count / cpu:.1f} a second of CPU")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--town", default="data/nuscenes_town")
    town = parser.parse_args().town
    rng = np.random.default_rng(0)
    truth, found = random_objects(rng, TRUTHS), random_objects(rng, BOXES)
    timed(f"evaluation of {FRAMES} frames x {BOXES} boxes", lambda: bool(evaluate(truth, found)) * FRAMES)
    limits = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
    pipeline = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
        {"type": "LoadPointsFromMultiSweeps", "sweeps_num": 10, "use_dim": 5, "remove_close": True},
        {"type": "LoadAnnotations3D"},
        {"type": "GlobalRotScaleTrans", "rot_range": [-0.4, 0.4]},
        {"type": "RandomFlip3D", "flip_ratio_bev_horizontal": 0.5},
        {"type": "PointsRangeFilter", "point_cloud_range": limits},
        {"type": "ObjectRangeFilter", "point_cloud_range": limits},
        {"type": "PointShuffle"},
        {"type": "Pack3DDetInputs", "keys": ["points", "gt_bboxes_3d", "gt_labels_3d"]},
    ]
    prefix = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"}
    dataset = NuScenesTownDataset(town, pipeline=pipeline, data_prefix=prefix)
    points = np.mean([len(dataset[index]["inputs"]["points"]) for index in range(0, len(dataset), 8)])
    timed(f"pipeline, {points:.0f} points a sample", lambda: len([dataset[index] for index in range(len(dataset))]))


if __name__ == "__main__":
    main()
