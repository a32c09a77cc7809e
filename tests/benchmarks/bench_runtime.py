"""What the runtime costs per iteration: our loop with default hooks and two schedules, against a hand-written loop.

    python tests/benchmarks/bench_runtime.py [--iters 2000] [--rounds 8]

Both train the same tiny model on the same batches from memory, in turn; the median over the rounds is printed as JSON,
with the cost early in a run and after many iterations. Times are the processor's, so a busy machine matters little.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydet3d.config import Config
from raydet3d.runtime import EpochBasedTrainLoop, Runner, assemble


class Tiny(nn.Module):
    """Linear(10, 10), the least that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).square().mean()

    def train_step(self, data: torch.Tensor, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        with optim_wrapper.optim_context(self):
            loss = self(data)
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}


class Batches:
    """A loader that is a list in memory."""

    def __init__(self, count: int) -> None:
        self.batches = [torch.randn(4, 10) for _ in range(count)]
        self.dataset = self.batches
        self.batch_sampler = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


def make(iters: int, folder: str) -> Runner:
    """A run of many epochs of so many iterations, to be trained one by one."""
    cfg = Config(
        {
            "work_dir": folder,
            "model": {"type": Tiny},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01}},
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 500},
                {"type": "CosineAnnealingLR", "T_max": 1000, "by_epoch": True, "convert_to_iter_based": True},
            ],
            "train_cfg": {"by_epoch": True, "max_epochs": 1000},
            "train_dataloader": {"dataset": None, "sampler": None},
            "default_hooks": {
                "logger": {"type": "LoggerHook", "interval": 50},
                "checkpoint": {"type": "CheckpointHook", "save_last": False},
            },
            "randomness": {"seed": 0},
            "log_level": "ERROR",
        }
    )
    runner = assemble(cfg)
    vars(runner)["train_loop"] = EpochBasedTrainLoop(runner, Batches(iters), max_epochs=1000)  # type: ignore[arg-type]
    vars(runner)["val_loop"] = None
    _ = runner.param_schedulers
    runner.call_hook("before_run")
    runner.record.begin(0)
    runner.call_hook("before_train")
    runner.optim_wrapper.initialize_count_status(runner.model, 0, runner.max_iters)
    return runner


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[torch.Tensor]) -> float:
    """Seconds of processor time of a hand-written epoch."""
    start = time.process_time()
    for batch in batches:
        loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iters", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with tempfile.TemporaryDirectory() as folder:
        runner = make(args.iters, folder)
        batches = runner.train_dataloader.batches
        ours, theirs = [], []
        for _ in range(args.rounds):
            theirs.append(plain(model, optimizer, batches) / args.iters)
            start = time.process_time()
            runner.train_loop.run_epoch()
            ours.append((time.process_time() - start) / args.iters)
        runner.close()
    over = [a - b for a, b in zip(ours, theirs, strict=True)]
    print(
        json.dumps(
            {
                "iters": args.iters,
                "plain_us": round(statistics.median(theirs) * 1e6, 1),
                "ours_us": round(statistics.median(ours) * 1e6, 1),
                "over_plain_us": round(statistics.median(over) * 1e6, 1),
                "over_plain_first_us": round(over[0] * 1e6, 1),
                "over_plain_last_us": round(over[-1] * 1e6, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
