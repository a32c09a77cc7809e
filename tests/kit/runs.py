"""Runs of the toys of the train command, as processes that can be watched, stopped and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
# How many times longer than usual things may take: for machines that do much else.
PATIENCE = float(os.environ.get("RAYDET3D_TEST_PATIENCE", "1"))

CONFIG = """
custom_imports = dict(imports=["tests.kit.registered"], allow_failed_imports=False)
model = dict(type="ToyModel", dropout={dropout})
train_dataloader = dict(
    batch_size={batch}, num_workers={loaders}, persistent_workers={loaders} > 0,
    sampler=dict(type="DefaultSampler", shuffle=True), dataset=dict(type="ToyData", size={size}),
)
val_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False), dataset=dict(type="ToyData", size=9, noise=0.0),
)
train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval={val_interval})
val_cfg = dict()
val_evaluator = dict(type="ToyMetric")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01), clip_grad=dict(max_norm=10))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10)]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=5),
    checkpoint=dict(type="CheckpointHook", interval={every}, by_epoch=False, max_keep_ckpts=3),
)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=3)
custom_hooks = {hooks}
ray = {ray}
"""

RAY = {"dashboard": False, "gpus_per_worker": 0, "cpus_per_worker": 0.5}
DEFAULTS: dict[str, Any] = {
    "dropout": 0.3, "batch": 2, "loaders": 0, "size": 48, "epochs": 3, "val_interval": 3, "every": 4,
}  # fmt: skip


def write_config(
    folder: Path, *hooks: Mapping[str, Any], ray: Mapping[str, Any] | None = None, trace: bool = True, **changes: Any
) -> Path:
    """A config file of toys; each step's samples are written to ``folder/samples`` unless ``trace`` is off."""
    folder.mkdir(parents=True, exist_ok=True)
    first = [{"type": "WriteSamples", "folder": str(folder / "samples")}] if trace else []
    path = folder / "toy.py"
    text = CONFIG.format(
        **{**DEFAULTS, **changes}, hooks=repr([*first, *map(dict, hooks)]), ray=repr({**RAY, **(ray or {})})
    )
    path.write_text(text)
    return path


class Run:
    """A running train command.

    Args:
        config: The config file; the run works in its folder.
        flags: Flags of the command.
        env: Further environment variables.
    """

    def __init__(self, config: Path, *flags: object, env: Mapping[str, str] | None = None) -> None:
        self.folder = config.parent
        self.work_dir = self.folder / "work"
        number = len(list(self.folder.glob("out*.txt")))
        self.output = self.folder / f"out{number}.txt"
        command = [sys.executable, "-m", "raydet3d.train", str(config), "--work-dir", str(self.work_dir)]
        given = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **(env or {}),
        }  # fmt: skip
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *map(str, flags)], cwd=self.folder, env=given, stdout=file, stderr=subprocess.STDOUT
            )

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text()

    def wait(self, timeout_s: float = 180) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end in {timeout_s} s:\n{self.text()[-4000:]}") from None

    def until(self, ready: Callable[[], Any], timeout_s: float = 120) -> Any:
        """Wait until something holds; what it is."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while not (found := ready()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()[-4000:]}"
            assert time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.02)
        return found

    def reached(self, iteration: int) -> Callable[[], bool]:
        """Whether so many iterations are done."""
        return lambda: (read_reached(self.work_dir) or 0) >= iteration

    def signal(self, number: signal.Signals) -> None:
        """Send the command's process a signal."""
        self.process.send_signal(number)

    def descendants(self, name: str) -> list[int]:
        """Processes that it has started, directly or not, whose command line has a word."""
        parents, named = {}, []
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(folder.name)
                parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if name.encode() in (folder / "cmdline").read_bytes():
                    named.append(pid)
        return [pid for pid in named if self._is_mine(pid, parents)]

    def _is_mine(self, pid: int, parents: Mapping[int, int]) -> bool:
        while pid > 1 and pid != self.process.pid:
            pid = parents.get(pid, 0)
        return pid == self.process.pid

    def close(self) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def finish(config: Path, *flags: object, code: int = 0, timeout_s: float = 240, env: Any = None) -> Run:
    """Run the command to its end, which must come with this exit code."""
    run = Run(config, *flags, env=env)
    assert run.wait(timeout_s) == code, run.text()[-6000:]
    return run


def read_reached(work_dir: Path) -> int | None:
    """Iterations that were done last."""
    from raydet3d.launch.restart_file import read_reached

    return read_reached(work_dir)


def starts(work_dir: Path) -> list[dict[str, Any]]:
    """The starts of a work dir."""
    lines = [json.loads(line) for line in (work_dir / "starts.jsonl").read_text().splitlines()]
    return [line for line in lines if "from" in line]


def weights(work_dir: Path, iteration: int) -> dict[str, torch.Tensor]:
    """The weights after an iteration."""
    state: dict[str, torch.Tensor] = torch.load(work_dir / f"iter_{iteration}.pth", weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: Path, other: Path, iteration: int) -> None:
    """Two runs have the same bits after an iteration."""
    a, b = weights(one, iteration), weights(other, iteration)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def steps_that_count(folder: Path) -> list[list[Any]]:
    """The samples of each iteration over all ranks, sorted, as they were trained on last: what was redone replaces."""
    steps: dict[int, dict[int, tuple[list[Any], int]]] = {}
    for path in folder.glob("rank*.jsonl"):
        for line in path.read_text().splitlines():
            iteration, ids, digests, world = json.loads(line)
            rank = int(path.stem.removeprefix("rank"))
            steps.setdefault(iteration, {})[rank] = ([*zip(ids, digests, strict=True)], world)
    assert sorted(steps) == list(range(len(steps)))
    out = []
    for _, ranks in sorted(steps.items()):
        world = ranks[0][1]  # that of the last try: ranks beyond are of an earlier one
        out.append(sorted(pair for rank in range(world) for pair in ranks[rank][0]))
    return out


def iterations_logged(text: str) -> list[int]:
    """Iterations of the log lines, in order, whatever their epoch."""
    found = re.findall(r"Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\]", text)
    return [(int(epoch) - 1) * int(length) + int(batch) for epoch, batch, length in found]
