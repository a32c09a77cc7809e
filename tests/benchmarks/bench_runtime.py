"""What the runtime costs an iteration: a hand-written loop, ours, and MMEngine's where it is installed, in one run.

    python tests/benchmarks/bench_runtime.py [--iters 1000] [--rounds 12] [--mmengine PYTHON]

All three train the same tiny model on the same batches from a list in memory; ours and MMEngine's with their default
hooks and two schedules. Each lives in a process of its own and waits for its turn, epoch by epoch, so that whatever
else the machine does hits all alike; times are the processor's. The medians over the rounds are printed as JSON:
``share`` is (ours - plain) / (MMEngine's - plain), and ``late_us`` is our cost after ``--late`` further iterations,
beside ``early_us``: what it was at the beginning of the same process.

MMEngine is looked for in the python that ``--mmengine`` or ``RAYDET3D_MMENGINE_PYTHON`` names, else in this one.
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
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
SCHEDULES = [
    {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 500},
    {"type": "CosineAnnealingLR", "T_max": 1000, "by_epoch": True, "end": 1000, "convert_to_iter_based": True},
]
HOOKS = {"logger": {"type": "LoggerHook", "interval": 50}, "checkpoint": {"type": "CheckpointHook", "interval": -1}}
OPTIM = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}}
EPOCHS = 100_000  # never reached: epochs are trained one by one


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

    batch_sampler = SimpleNamespace(sampler=None)
    sampler = None

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [torch.randn(4, 10, generator=generator) for _ in range(count)]
        self.dataset = self.batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.batches)


def plain(iters: int, folder: str) -> Callable[[], None]:
    """A hand-written epoch."""
    model, batches = Tiny(), Batches(iters).batches
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def epoch() -> None:
        for batch in batches:
            loss = model(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def ours(iters: int, folder: str) -> Callable[[], None]:
    """An epoch of our loop."""
    sys.path.insert(0, str(ROOT))
    from raydet3d.config import Config
    from raydet3d.runtime import EpochBasedTrainLoop, assemble

    cfg = {
        "work_dir": folder,
        "model": {"type": Tiny},
        "optim_wrapper": OPTIM,
        "param_scheduler": SCHEDULES,
        "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
        "train_dataloader": {"dataset": {"type": list}, "sampler": {"type": "DefaultSampler"}},
        "default_hooks": HOOKS,
        "randomness": {"seed": 0},
    }
    runner = assemble(Config(cfg))
    loop = EpochBasedTrainLoop(runner, Batches(iters), max_epochs=EPOCHS)  # type: ignore[arg-type]
    vars(runner)["train_loop"], vars(runner)["val_loop"] = loop, None
    _ = runner.param_schedulers
    runner.call_hook("before_run")
    runner.scalar_log.begin(0)
    runner.call_hook("before_train")
    runner.optim_wrapper.initialize_count_status(runner.model, 0, runner.max_iters)
    return loop.run_epoch


def mmengine(iters: int, folder: str) -> Callable[[], None]:
    """An epoch of MMEngine's loop."""
    from mmengine.runner import Runner

    runner = Runner(
        model=Tiny(),
        work_dir=folder,
        train_dataloader=Batches(iters),
        train_cfg={"by_epoch": True, "max_epochs": EPOCHS},
        optim_wrapper=OPTIM,
        param_scheduler=SCHEDULES,
        default_hooks=HOOKS,
        randomness={"seed": 0},
    )
    # What Runner.train does before its loop runs.
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner.call_hook("before_run")
    runner.optim_wrapper.initialize_count_status(runner.model, 0, runner.max_iters)
    runner.call_hook("before_train")
    return runner.train_loop.run_epoch  # type: ignore[no-any-return]


KINDS = {"plain": plain, "ours": ours, "mmengine": mmengine}


def serve(kind: str, iters: int) -> None:
    """Train an epoch for every line read, and answer with its processor time in seconds."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # log lines are written, but shown to nobody
    with tempfile.TemporaryDirectory() as folder:
        epoch = KINDS[kind](iters, folder)
        epoch()  # what happens once belongs to no iteration
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            start = time.process_time()
            epoch()
            print(time.process_time() - start, file=answers, flush=True)


class Child:
    """A process that trains epochs when told to."""

    def __init__(self, kind: str, iters: int, python: str = sys.executable) -> None:
        command = [python, __file__, "--serve", kind, "--iters", str(iters)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._ask, self._answer = self.process.stdin, self.process.stdout
        if self._answer.readline() != "ready\n":
            assert self.process.stderr is not None
            raise RuntimeError(f"{kind} did not start: {self.process.stderr.read()[-2000:]}")
        self.iters = iters

    def epoch(self) -> float:
        """Microseconds of processor time an iteration."""
        print(file=self._ask, flush=True)
        return float(self._answer.readline()) / self.iters * 1e6

    def close(self) -> None:
        self._ask.close()
        self.process.wait(60)


def has_mmengine(python: str) -> bool:
    """Whether a python has MMEngine."""
    found = subprocess.run([python, "-c", "import importlib.util as u; print(bool(u.find_spec('mmengine')))"],
                           capture_output=True, text=True, check=False)  # fmt: skip
    return found.stdout.strip() == "True"


def seed_us(times: int = 20_000) -> float:
    """Microseconds that seeding one sample takes."""
    sys.path.insert(0, str(ROOT))
    from raydet3d.data.seeded import sample_seed, seed_generators

    return min(timeit.repeat(lambda: seed_generators(sample_seed(3, 4, 5)), number=times, repeat=3)) / times * 1e6


def compare(iters: int, rounds: int, late: int, python: str) -> dict[str, Any]:
    """Let all train in turn."""
    children = {"plain": Child("plain", iters), "ours": Child("ours", iters)}
    if has_mmengine(python):
        children["mmengine"] = Child("mmengine", iters, python)
    took: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(rounds):
        for name, child in children.items():
            took[name].append(child.epoch())
    out: dict[str, Any] = {"iters": iters, "rounds": rounds}
    out |= {f"{name}_us": round(statistics.median(values), 1) for name, values in took.items()}
    over = [a - b for a, b in zip(took["ours"], took["plain"], strict=True)]
    out["over_plain_us"] = round(statistics.median(over), 1)
    if "mmengine" in took:
        theirs = [a - b for a, b in zip(took["mmengine"], took["plain"], strict=True)]
        out["share"] = round(statistics.median(a / b for a, b in zip(over, theirs, strict=True)), 3)
    if late:
        for _ in range(late // iters):
            children["ours"].epoch()
        again = [children["ours"].epoch() - children["plain"].epoch() for _ in range(rounds)]
        out |= {"early_us": out["over_plain_us"], "late_us": round(statistics.median(again), 1), "late_after": late}
    for child in children.values():
        child.close()
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iters", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--late", type=int, default=0, help="iterations to train before measuring again")
    parser.add_argument("--mmengine", default=os.environ.get("RAYDET3D_MMENGINE_PYTHON", sys.executable))
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.iters)
        return
    print(json.dumps({**compare(args.iters, args.rounds, args.late, args.mmengine), "seed_us": round(seed_us(), 1)}))


if __name__ == "__main__":
    main()
