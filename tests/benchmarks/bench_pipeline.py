"""Where a sample's time goes, as JSON: `python tests/benchmarks/bench_pipeline.py [--root PREPARED_KITTI]`.

One thread runs the published KITTI training pipeline (15 objects of each class pasted), transform by transform, timed
by the processor so that other programs count less; then a loader with 0, 1 and 2 worker processes runs by the wall's
clock. Without `--root` on made-up frames of about 18,000 points; real ones hold more points in each object.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydet3d.data import DefaultSampler, EpochBatchSampler, SeededDataset, pseudo_collate
from raydet3d.data.prepare import prepare_kitti
from raydet3d.data.seeded import current_epoch, sample_seed, seed_generators
from raydet3d.registry import DATASETS
from tests.kit.tiny_kitti import dataset_cfg, train_pipeline, write_kitti


class Timed:
    """A transform that keeps the time it takes."""

    def __init__(self, step: Any, name: str, times: dict[str, list[float]]) -> None:
        self.step, self.name, self.times = step, name, times

    def warm_up(self, sample: Any) -> None:
        """Pass on."""
        if hasattr(self.step, "warm_up"):
            self.step.warm_up(sample)

    def __call__(self, results: Any) -> Any:
        """Run the transform under the clock."""
        begin = time.thread_time()
        made = self.step(results)
        self.times[self.name].append(time.thread_time() - begin)
        return made


def published(root: Path, *, noise: bool) -> dict[str, Any]:
    """The training set's config, with as many objects pasted as published."""
    steps = train_pipeline(root, noise=noise)
    steps[2]["db_sampler"]["sample_groups"] = {"Car": 15, "Pedestrian": 15, "Cyclist": 15}
    return dataset_cfg(root, pipeline=steps)


def by_transform(cfg: dict[str, Any], samples: int) -> tuple[dict[str, float], float, dict[str, float]]:
    """Median milliseconds of each transform, of a whole sample, and mean sizes."""
    times: dict[str, list[float]] = defaultdict(list)
    dataset = DATASETS.build(cfg)
    dataset.pipeline.transforms = [
        Timed(step, name, times) for step, name in zip(dataset.pipeline.transforms, dataset.pipeline.names, strict=True)
    ]
    stamped = SeededDataset(dataset, 0)
    whole, points, objects = [], [], []
    for number in range(samples + 20):
        begin = time.thread_time()
        made = stamped[(0, number % len(dataset))]
        whole.append(time.thread_time() - begin)
        points.append(len(made["inputs"]["points"]))
        objects.append(len(made["data_samples"].gt_instances_3d.labels_3d))
    cut = {name: round(float(np.median(taken[20:])) * 1e3, 3) for name, taken in times.items()}
    total = float(np.median(whole[20:])) * 1e3
    cut["the rest (info, seeding, restoring)"] = round(total - sum(cut.values()), 3)
    return cut, round(total, 3), {"points": float(np.mean(points)), "objects": float(np.mean(objects))}


def throughput(cfg: dict[str, Any], *, workers: int, seconds: float) -> float:
    """Samples a second out of a loader, batch size 6."""
    dataset = DATASETS.build({"type": "RepeatDataset", "times": 1000, "dataset": cfg})
    sampler = DefaultSampler(dataset, seed=0, rank=0, world_size=1)
    batches = EpochBatchSampler(BatchSampler(sampler, 6, drop_last=True), sampler)
    loader = iter(
        DataLoader(SeededDataset(dataset, 0), batch_sampler=batches, num_workers=workers, collate_fn=pseudo_collate)
    )
    for _ in range(3):
        next(loader)
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(loader)
        done += 6
    return round(done / (time.perf_counter() - begin), 1)


def seeding_us(repeats: int = 20000) -> float:
    """Microseconds to seed the generators for a sample."""
    begin = time.thread_time()
    for index in range(repeats):
        seed_generators(sample_seed(0, current_epoch(), index))
    return round((time.thread_time() - begin) / repeats * 1e6, 2)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a prepared KITTI folder; by default made-up frames")
    parser.add_argument("--samples", type=int, default=200, help="samples to time")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to run each loader")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.root
        prepare_s = None
        if root is None:
            root = write_kitti(Path(scratch) / "kitti", train=40, val=0, num_points=75_000)
            begin = time.perf_counter()
            prepare_kitti(root)
            prepare_s = round((time.perf_counter() - begin) / 40 * 1e3, 2)
        cut, total, sizes = by_transform(published(root, noise=True), arguments.samples)
        without_noise = by_transform(published(root, noise=False), arguments.samples)[1]
        dataset = DATASETS.build(published(root, noise=True))
        report = {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": torch.get_num_threads(),
            "mean_sizes": sizes,
            "median_ms": cut,
            "sample_ms": total,
            "sample_ms_without_ObjectNoise": without_noise,
            "seeding_us": seeding_us(),
            "prepare_ms_per_frame": prepare_s,
            "pickled_dataset_bytes": len(pickle.dumps(dataset)),
            "samples_per_s": {
                f"{workers} workers": throughput(
                    published(root, noise=False), workers=workers, seconds=arguments.seconds
                )
                for workers in (0, 1, 2)
            },
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
