"""What a sweep adds to its trials: toy trials of 3 epochs with one worker each, two at a time.

    python tests/benchmarks/bench_trials.py [--trials 120] [--rounds 1] [--baseline CHECKOUT]

Prints, for each round, the seconds from the first report to the last one (so without the start of Ray), the seconds of
each quarter of the trials (which shows growth per trial), and how many processes have trained. With `--baseline`,
each round runs another checkout's sweep as well, one after the other, on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parents[2]


class Figures(TypedDict):
    """What one sweep has taken."""

    wall_s: float
    after_start_s: float
    quarters_s: list[float]
    processes: int
    states: dict[str, int]


def run_sweep(count: int) -> Figures:
    """Run a sweep of the checkout that is first on the path."""
    from raydet3d.tune import sweep
    from tests.kit.sweeps import read_spy, write_config

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = {
            "metric": "AP",
            "mode": "max",
            "trials": count,
            "concurrency": 2,
            "space": {"lr": {"loguniform": [1e-4, 1e-2]}},
            "cfg_options": {"epochs": 3},
        }
        began = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            results = sweep(write_config(folder), source, work_dir=folder / "sweep")
        wall_s = time.monotonic() - began
        trials = results.trials
        ends = sorted(trial.reports[-1]["time"] for trial in trials)
        marks = [min(trial.reports[0]["time"] for trial in trials)]
        marks += [ends[max(len(ends) * part // 4 - 1, 0)] for part in (1, 2, 3, 4)]
        pids = {entry["pid"] for trial in trials for entry in read_spy(folder / "sweep" / "trials" / trial.id)}
        states = [trial.state for trial in trials]
    return {
        "wall_s": wall_s,
        "after_start_s": marks[-1] - marks[0],
        "quarters_s": [end - begin for begin, end in itertools.pairwise(marks)],
        "processes": len(pids),
        "states": {state: states.count(state) for state in dict.fromkeys(states)},
    }


def run_checkout(checkout: Path, count: int) -> Figures:
    """Run a sweep of a checkout in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(Path(__file__).resolve()), "--trials", str(count), "--json"]
    run = subprocess.run(command, cwd=checkout, env=env, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(run.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Print the figures of each checkout and round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--json", action="store_true", help="run one sweep in this process and print its figures")
    args = parser.parse_args()
    if args.json:
        print(json.dumps(run_sweep(args.trials)))
        return
    checkouts = [ROOT, *([args.baseline.resolve()] if args.baseline is not None else [])]
    taken: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    for number in range(args.rounds):
        for checkout in checkouts if number % 2 == 0 else reversed(checkouts):
            figures = run_checkout(checkout, args.trials)
            taken[checkout].append(figures["after_start_s"])
            quarters = " ".join(f"{seconds:.1f}" for seconds in figures["quarters_s"])
            print(
                f"{checkout}: {args.trials} trials {figures['after_start_s']:.1f} s after the start (quarters "
                f"{quarters}), {figures['wall_s']:.1f} s in all, {figures['processes']} processes, {figures['states']}",
                flush=True,
            )
    for checkout, seconds in taken.items():
        each_ms = 1000 * min(seconds) / args.trials
        print(f"{checkout}: median {statistics.median(seconds):.1f} s, at best {each_ms:.0f} ms a trial")


if __name__ == "__main__":
    main()
