"""From the command to the first step, against a bare ``TorchTrainer`` that does nothing: interleaved pairs.

    python tests/benchmarks/bench_start.py [--pairs 5] [--workers 2]

Both start a Ray of their own with the dashboard that Ray starts by default. The bare one's clock stops at the first
line of its training function, ours after the first training iteration of a toy. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BARE = """
import sys
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchTrainer

def nothing(config):
    Path(config["marker"]).touch()

if __name__ == "__main__":
    TorchTrainer(
        nothing,
        train_loop_config={"marker": sys.argv[1]},
        scaling_config=ray.train.ScalingConfig(num_workers=int(sys.argv[2]), resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(storage_path=sys.argv[3], name="bare"),
    ).fit()
"""


def until_there(command: list[str], folder: Path, marker: Path) -> float:
    """Seconds until a file is there; the process may end on its own time."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    began = time.perf_counter()
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)
    while not marker.exists():
        if process.poll() is not None:
            raise SystemExit((folder / "out.txt").read_text()[-3000:])
        time.sleep(0.01)
    took = time.perf_counter() - began
    if process.wait(120):
        raise SystemExit((folder / "out.txt").read_text()[-3000:])
    return took


def bare(folder: Path, workers: int) -> float:
    """A trainer that does nothing."""
    script, marker = folder / "bare.py", folder / "marker"
    script.write_text(BARE)
    return until_there([sys.executable, str(script), str(marker), str(workers), str(folder / "ray")], folder, marker)


def ours(folder: Path, workers: int) -> float:
    """The train door with a toy."""
    from tests.kit.runs import write_config

    marker = folder / "marker"
    config = write_config(
        folder, {"type": "Touch", "path": str(marker)}, trace=False, epochs=1, ray={"dashboard": True}
    )
    command = [sys.executable, "-m", "raydet3d.train", str(config), "--workers", str(workers)]
    return until_there([*command, "--work-dir", str(folder / "work")], folder, marker)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    pairs = []
    for i in range(args.pairs):
        pair = {}
        for name, measure in [("bare", bare), ("ours", ours)][:: 1 if i % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                pair[name] = measure(Path(folder), args.workers)
        pairs.append(pair)
        print(json.dumps(pair), file=sys.stderr)
    more = statistics.median(pair["ours"] - pair["bare"] for pair in pairs)
    medians = {name: round(statistics.median(pair[name] for pair in pairs), 2) for name in ("bare", "ours")}
    print(json.dumps({"workers": args.workers, "pairs": len(pairs), "median_s": medians, "more_s": round(more, 2)}))


if __name__ == "__main__":
    main()
