"""Time and size of the report of a long run: `python -m tests.benchmarks.bench_report [--iterations N] [--epochs N]`.

The run's files are made up: every iteration is logged, as no run does (a tenth of them is usual).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from raydet3d.reports.run_files import read_run
from raydet3d.reports.run_report import render_runs

CLASSES = ("Pedestrian", "Cyclist", "Car")


def write_run(folder: Path, *, iterations: int, epochs: int) -> None:
    """Write `scalars.json`, `starts.jsonl` and `analysis.json` of a long run."""
    rng = np.random.default_rng(0)
    length = iterations // epochs
    noise = rng.lognormal(0, 0.2, (iterations, 4)).round(9)
    with (folder / "scalars.json").open("w") as file:
        for i, (a, b, c, d) in enumerate(noise.tolist(), 1):
            loss = 1 + 5 / (1 + i / 1000)
            file.write(
                f'{{"lr": {1e-3 * (1 - i / (iterations + 1)):.12g}, "data_time": {0.001 * a}, "grad_norm": {3 * b}, '
                f'"loss": {loss * c}, "loss_cls": {0.6 * loss * c}, "loss_bbox": {0.3 * loss * d}, '
                f'"loss_dir": {0.1 * loss * d}, "time": {0.1 * d}, "epoch": {(i - 1) // length + 1}, "iter": {i}, '
                f'"memory": 4000, "momentum": 0.95, "step": {i}, "mode": "train"}}\n'
            )
            if i % length == 0:
                scores = {
                    f"Kitti metric/pred_instances_3d/KITTI/{name}_{kind}_{ap}_{level}_strict": 60 + 0.1 * i / length
                    for name in CLASSES
                    for kind in ("3D", "BEV", "2D")
                    for ap in ("AP11", "AP40")
                    for level in ("easy", "moderate", "hard")
                }
                file.write(json.dumps({**scores, "step": i // length, "mode": "val", "iter": i}) + "\n")
    starts = [{"from": at, "redone": 10, "workers": 8, "why": "", "run": "r"} for at in (0, iterations // 2)]
    (folder / "starts.jsonl").write_text("".join(f"{json.dumps(start)}\n" for start in starts))


def main() -> None:
    """Write a run, report on it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, iterations=args.iterations, epochs=args.epochs)
        size = (folder / "scalars.json").stat().st_size
        began, cpu = time.perf_counter(), time.process_time()
        run = read_run(folder)
        read = time.perf_counter() - began
        page = render_runs([run])
        wall, spent = time.perf_counter() - began, time.process_time() - cpu
    print(f"scalars.json of {size / 2**20:.0f} MiB, {args.iterations} iterations, {args.epochs} validations")
    print(f"report: {wall:.1f} s ({read:.1f} s of it reading), {spent:.1f} s of CPU time, {len(page) / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
