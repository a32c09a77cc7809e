"""What the optim wrapper and two schedules cost per iteration beside plain torch: ours, and MMEngine's if it is named.

    [RAYDET3D_MMENGINE_PYTHON=/path/to/python] python tests/benchmarks/bench_optim.py [--rounds 30]

Microseconds of processor time on one thread, the least of the rounds, as JSON: ``tick`` both schedules, ``rates`` the
learning rates for the log, ``over_plain`` forward context, backward, clipping, step and clearing less the same by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
SCHEDULE = [
    {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 10**6},
    {"type": "CosineAnnealingLR", "T_max": 1000, "end": 1000, "by_epoch": True, "convert_to_iter_based": True},
]
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "tiny": (lambda: nn.Linear(10, 10), {}),
    "tiny, clipped": (lambda: nn.Linear(10, 10), {"clip_grad": {"max_norm": 10}}),
    "20 layers with BatchNorm, clipped": (
        lambda: nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(10, 10), nn.BatchNorm1d(10)))),
        {"clip_grad": {"max_norm": 10}},
    ),
    "20 layers with BatchNorm, clipped, paramwise": (
        lambda: nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(10, 10), nn.BatchNorm1d(10)))),
        {"clip_grad": {"max_norm": 10}, "paramwise_cfg": {"norm_decay_mult": 0.0}},
    ),
}


def make(side: str, model: nn.Module, cfg: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Wrapper and schedulers of one side."""
    whole = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01, "weight_decay": 1e-4}, **cfg}
    if side == "ours":
        sys.path.insert(0, str(ROOT))
        from raydet3d.optim import build_optim_wrapper, build_param_scheduler

        wrapper: Any = build_optim_wrapper(model, whole)
        return wrapper, build_param_scheduler(SCHEDULE, wrapper, epoch_length=1000, max_epochs=1000, max_iters=10**6)
    from mmengine.optim import build_optim_wrapper as build
    from mmengine.registry import PARAM_SCHEDULERS

    wrapper = build(model, whole)
    given = {"optimizer": wrapper, "epoch_length": 1000}
    return wrapper, [PARAM_SCHEDULERS.build(dict(cfg), default_args=given) for cfg in SCHEDULE]


def least(function: Callable[[], Any], rounds: int, calls: int = 100) -> float:
    """Microseconds of a call, the least mean of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            function()
        best = min(best, time.process_time() - start)
    return best / calls * 1e6


def measure(side: str, rounds: int) -> dict[str, dict[str, float]]:
    """All figures of one side."""
    torch.set_num_threads(1)
    out = {}
    for title, (build, cfg) in MODELS.items():
        model, twin = build(), build()
        wrapper, schedulers = make(side, model, cfg)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.01, weight_decay=1e-4)
        x = torch.randn(4, 10)

        def by_wrapper(wrapper: Any = wrapper, model: nn.Module = model, x: torch.Tensor = x) -> None:
            with wrapper.optim_context(model):
                loss = model(x).square().mean()
            wrapper.update_params(loss)

        def by_hand(
            cfg: dict[str, Any] = cfg,
            optimizer: torch.optim.Optimizer = optimizer,
            twin: nn.Module = twin,
            x: torch.Tensor = x,
        ) -> None:
            twin(x).square().mean().backward()
            if "clip_grad" in cfg:
                torch.nn.utils.clip_grad_norm_(twin.parameters(), 10)
            optimizer.step()
            optimizer.zero_grad()

        def tick(schedulers: list[Any] = schedulers) -> None:
            for scheduler in schedulers:
                scheduler.step()

        with_wrapper, plain = (least(f, rounds) for f in (by_wrapper, by_hand))
        out[title] = {
            "over_plain": round(with_wrapper - plain, 1),
            "tick": round(least(tick, rounds), 1),
            "rates": round(least(wrapper.get_lr, rounds), 1),
            "plain": round(plain, 1),
        }
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--side", choices=["ours", "mmengine"], default="ours")
    args = parser.parse_args()
    result = {args.side: measure(args.side, args.rounds)}
    python = os.environ.get("RAYDET3D_MMENGINE_PYTHON")
    if args.side == "ours" and python:
        command = [python, __file__, "--side", "mmengine", "--rounds", str(args.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result |= json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
