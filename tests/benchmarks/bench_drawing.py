"""What drawing costs a training: `python -m tests.benchmarks.bench_drawing [--epochs N] [--interval N]`.

Trains the small town's demo in this process, in turn with and without pictures (`Det3DVisualizationHook(draw=True)` at
its default interval), with a validation after every epoch, which is as often as anybody draws. Prints JSON: seconds of
CPU time and of the clock of both trainings, and of the hook in the one with pictures. `share` is the hook's CPU time
over that of the training without it: the difference of two trainings is as large as what they differ by anyhow.
`picture_cpu_s` is the least CPU time of one picture of 120,000 points, 30 boxes and a camera image, written as PNG.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raydet3d.config import Config
from raydet3d.hooks import Det3DVisualizationHook
from raydet3d.runtime import assemble
from raydet3d.visual import Det3DLocalVisualizer
from tests.benchmarks.bench_scene import sweep


class Stopwatch:
    """Seconds of CPU time of this process and of the clock."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall

    def seconds(self, name: str) -> dict[str, float]:
        return {f"{name}_cpu_s": round(self.cpu, 3), f"{name}_wall_s": round(self.wall, 3)}


class TimedHook(Det3DVisualizationHook):
    """The hook with a stopwatch."""

    def __init__(self, stopwatch: Stopwatch, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stopwatch = stopwatch

    def after_val_iter(self, *args: Any, **kwargs: Any) -> None:
        self._stopwatch(super().after_val_iter, *args, **kwargs)

    def after_val_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._stopwatch(super().after_val_epoch, *args, **kwargs)


def train(config: str, folder: str, epochs: int, hook: dict[str, Any]) -> Stopwatch:
    """Train in this process, and return what that took with all validations."""
    cfg = Config.fromfile(config, options={"epoch_num": epochs, "train_cfg.val_interval": 1})
    cfg["work_dir"] = folder
    cfg["default_hooks"]["visualization"] = hook
    runner, whole = assemble(cfg), Stopwatch()
    whole(runner.train)
    runner.close()
    return whole


def draw_picture(num_points: int = 120_000, repeat: int = 5) -> float:
    """Return the least CPU seconds of a picture of a dense cloud with boxes and a camera image."""
    rng = np.random.default_rng(0)
    points = sweep(num_points)
    boxes = np.column_stack(
        [rng.uniform([5, -20, -1.7], [60, 20, -1.7], (30, 3)), np.tile([3.9, 1.6, 1.5, 0.3], (30, 1))]
    )
    labels, scores = np.arange(30) % 3, rng.uniform(0.3, 1, 30)
    sample = {
        "gt_instances_3d": {"bboxes_3d": boxes[:15], "labels_3d": labels[:15]},
        "pred_instances_3d": {"bboxes_3d": boxes, "labels_3d": labels, "scores_3d": scores},
        "lidar2img": np.array([[620.0, -720, 0, 0], [187, 0, -720, 0], [1, 0, 0, 0]]),
    }
    image = np.asarray(Image.fromarray(rng.integers(0, 255, (24, 78, 3), np.uint8)).resize((1242, 375)))
    inputs = {"points": points, "img": image}
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        visualizer = Det3DLocalVisualizer(vis_backends=[{"type": "LocalVisBackend"}], save_dir=folder)
        for step in range(repeat):
            stopwatch = Stopwatch()
            stopwatch(visualizer.add_datasample, "frame", inputs, sample, step=step)
            costs.append(stopwatch.cpu)
    return round(min(costs), 3)


def main() -> None:
    """Train with and without pictures, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo/pointpillars_town.py")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--interval", type=int, default=50, help="validation batches between two that are drawn")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of trainings; the least times count")
    args = parser.parse_args()
    torch.set_num_threads(1)
    hooks: list[Stopwatch] = []
    drawn: list[Stopwatch] = []
    bare: list[Stopwatch] = []
    pictures = 0
    for _ in range(args.rounds):  # the first training in a process is the slowest: the least of several counts
        with tempfile.TemporaryDirectory() as folder:
            bare.append(train(args.config, folder, args.epochs, {"type": "Det3DVisualizationHook"}))
        with tempfile.TemporaryDirectory() as folder:
            hooks.append(Stopwatch())
            hook = {"type": TimedHook, "stopwatch": hooks[-1], "draw": True, "interval": args.interval}
            drawn.append(train(args.config, folder, args.epochs, hook))
            pictures = len(list(Path(folder).rglob("*.png")))
    without, with_pictures, stopwatch = (min(some, key=lambda one: one.cpu) for some in (bare, drawn, hooks))
    result = {
        "config": args.config,
        "epochs": args.epochs,
        "interval": args.interval,
        "pictures": pictures,
        **with_pictures.seconds("with"),
        **without.seconds("without"),
        **stopwatch.seconds("hook"),
        "share": round(stopwatch.cpu / without.cpu, 4),
        "share_wall": round(stopwatch.wall / without.wall, 4),
        "picture_cpu_s": draw_picture(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
