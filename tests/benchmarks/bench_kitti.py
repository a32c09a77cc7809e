"""The published KITTI PointPillars on real frames, through the doors: seconds, memory, whether the loss falls; JSON.

    python tests/benchmarks/bench_kitti.py [--batch 2] [--epochs 8] [--threads 1] [--root KITTI]
                                           [--only float32|bfloat16]

Prepares a copy of the five frames of ../shared/data (or of --root, a data set of some frames in KITTI's raw layout),
then trains the published config in a process of its own, in float32 and with `--amp` (bfloat16 on a CPU). An epoch
passes twice over the train split. The first step is left out of the times. `loss` is the mean of the first
and of the last quarter of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
FRAMES = ROOT.parent / "shared" / "data" / "kitti"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", type=Path, default=FRAMES, help="frames in KITTI's raw layout; they are copied")
    parser.add_argument("--only", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    if not args.root.is_dir():
        print(json.dumps({"skipped": f"no KITTI frames at {args.root}"}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "kitti")
        shutil.copytree(args.root, data, copy_function=shutil.copyfile)
        begin = time.perf_counter()
        call(["raydet3d.data.prepare", "kitti", str(data), "--workers", "0"], args.threads)
        result: dict[str, Any] = {
            "config": CONFIG.stem,
            "prepare_s": time.perf_counter() - begin,
            "batch": args.batch,
            "threads": args.threads,
            "load_average_before": os.getloadavg()[0],
            "memory_format": "channels last, from the scatter on: the model stores its maps so by itself",
        }
        for name, flags in {"float32": [], "bfloat16": ["--amp"]}.items():
            if args.only in (None, name):
                result[name] = train(data, Path(folder, name), flags, args)
    print(json.dumps(rounded(result), indent=1))
    return 0


def train(data: Path, work_dir: Path, flags: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Train a short cycle through the door; give what its log says."""
    options = {
        "data_root": f"{data}/",
        "epoch_num": args.epochs,
        "train_cfg.val_interval": args.epochs,
        "train_dataloader.batch_size": args.batch,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
        "randomness.seed": 0,
        "default_hooks.logger.interval": 1,
        "log_processor.window_size": 1,
    }
    before = cpu_seconds()
    command = ["raydet3d.train", str(CONFIG), "--workers", "0", "--work-dir", str(work_dir), *flags]
    log = call([*command, "--cfg-options", *(f"{key}={value}" for key, value in options.items())], args.threads)
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    losses = [row["loss"] for row in steps]
    quarter = max(1, len(losses) // 4)
    seconds = [row["time"] for row in steps[1:]]
    return {
        "steps": len(steps),
        "step_s": {"median": statistics.median(seconds), "min": min(seconds)},
        "data_s": statistics.median(row["data_time"] for row in steps[1:]),
        "samples_per_s": args.batch / statistics.median(seconds),
        "run_cpu_s": cpu_seconds() - before,
        "peak_memory_mb": max(row["memory"] for row in steps),
        "loss": [
            round(statistics.mean(row["loss"] for row in part), 3) for part in (steps[:quarter], steps[-quarter:])
        ],
        "losses": [round(row["loss"], 3) for row in steps],
        "plane_warnings": log.count("has no road planes"),
    }


def rounded(value: Any) -> Any:
    """The same with three decimals."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def call(arguments: list[str], threads: int) -> str:
    """Run a door; give what it printed."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", *arguments], env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"python -m {' '.join(arguments)} left with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def cpu_seconds() -> float:
    """Processor time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
