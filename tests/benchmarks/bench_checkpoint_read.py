"""Memory and time of resuming from a 400 MB checkpoint on 2 ranks, for this tree and, in the same run, another one.

    python tests/benchmarks/bench_checkpoint_read.py [--mb 400] [--baseline CHECKOUT]

Each rank builds a model and its optimizer, then goes on from a checkpoint (a third weights, two thirds moments of
AdamW). Prints JSON: `growth` is the peak growth of anonymous memory during the load over the checkpoint's size, of the
worse rank; `seconds` is the load's duration.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RANKS = 2


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/smaps_rollup has no line 'Anonymous:'")


def make_config(folder: Path, megabytes: int) -> Any:
    import torch

    from tests.kit.toy import ToyData, ToyModel, toy_cfg

    class BigModel(ToyModel):
        """A toy with many more parameters."""

        def __init__(self) -> None:
            super().__init__()
            self.more = torch.nn.ParameterList(torch.ones(125_000) for _ in range(2 * megabytes // 3))

        def forward(self, inputs: Any, data_samples: Any, mode: str = "tensor") -> Any:
            out = super().forward(inputs, data_samples, mode)
            if mode == "loss":
                out["loss_fit"] = out["loss_fit"] + sum(parameter[:1].sum() * 1e-3 for parameter in self.more)
            return out

    return toy_cfg(
        folder,
        model={"type": BigModel},
        train_dataloader__dataset={"type": ToyData, "size": 2 * RANKS},
        train_cfg={"by_epoch": True, "max_epochs": 1, "val_interval": 1},
        log_level="ERROR",
    )


def rank_main(action: str, folder: Path, rank: int, megabytes: int) -> None:
    import torch
    import torch.distributed as torch_dist

    from raydet3d.runtime import assemble

    torch.set_num_threads(1)
    torch_dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous-{action}", rank=rank, world_size=RANKS
    )
    runner = assemble(make_config(folder / "run", megabytes))
    if action == "write":
        runner.train()
        return
    _ = runner.train_loop, runner.optim_wrapper, runner.param_schedulers
    path = folder / "run" / "epoch_1.pth"
    before, peak, is_done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.005):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    runner.resume(str(path))
    seconds = time.perf_counter() - began
    peak[0] = max(peak[0], anonymous_bytes())
    is_done.set()
    watcher.join()
    size = path.stat().st_size
    found = {"growth": (peak[0] - before) / size, "seconds": seconds, "mb": size / 1e6}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def measure(tree: Path, megabytes: int) -> dict[str, float]:
    """Write a checkpoint with a tree's code, and resume from it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        for action in ("write", "read"):
            command = [sys.executable, __file__, "--action", action, "--folder", str(folder), "--mb", str(megabytes)]
            ranks = [subprocess.Popen([*command, "--rank", str(i)], env=env, cwd=tree) for i in range(RANKS)]
            codes = [rank.wait() for rank in ranks]
            if any(codes):
                raise SystemExit(f"a rank of {tree} failed")
        found = [json.loads((folder / f"rank{i}.json").read_text()) for i in range(RANKS)]
    return {key: round(max(one[key] for one in found), 3) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=400)
    parser.add_argument("--baseline", type=Path, help="another checkout to measure in the same run")
    parser.add_argument("--action", choices=["write", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.action is not None:
        rank_main(args.action, args.folder, args.rank, args.mb)
        return
    trees = {"this": ROOT, **({"baseline": args.baseline.resolve()} if args.baseline else {})}
    print(json.dumps({name: measure(tree, args.mb) for name, tree in trees.items()}, indent=1))


if __name__ == "__main__":
    main()
