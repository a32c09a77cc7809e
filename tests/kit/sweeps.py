"""A toy config file for sweeps, with variables to turn and a hook that misbehaves on request."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydet3d.hooks import Hook
from tests.kit.toy import toy_cfg

VARIABLES = 'lr = 0.01\nepochs = 4\nnap = 0.0\nmood = "well"\n'


class Mood(Hook):
    """Ends, or spoils, a run in its second epoch; and slows it down.

    Args:
        mood: `well`, `raises`, `raises once`, `nan` (weights), `hungry` (asks for more memory than there is), `killed`,
            `hangs` (the first time).
        nap: Seconds to sleep in each epoch.
    """

    def __init__(self, mood: str = "well", nap: float = 0.0) -> None:
        self.mood = mood
        self.nap = nap

    def after_train_epoch(self, runner: Any) -> None:
        time.sleep(self.nap)
        if runner.epoch != 1:
            return
        is_first = not (runner.work_dir / "misbehaved").exists()
        (runner.work_dir / "misbehaved").touch()
        if self.mood == "hangs" and is_first:
            time.sleep(600)
        if self.mood == "raises" or (self.mood == "raises once" and is_first):
            raise ValueError("a mistake in somebody's code")
        if self.mood == "nan":
            with torch.no_grad():
                next(iter(runner.model.parameters())).fill_(float("nan"))
        if self.mood == "hungry":
            np.zeros(1 << 55)
        if self.mood == "killed":
            os.kill(os.getpid(), signal.SIGKILL)


class Spy(Hook):
    """Notes weights and learning rate where training begins, and after each epoch, in ``spy.jsonl`` of the work dir."""

    priority = "LOWEST"

    def before_train(self, runner: Any) -> None:
        self._note(runner, "begin", runner.epoch)

    def after_train_epoch(self, runner: Any) -> None:
        self._note(runner, "epoch", runner.epoch + 1)

    def _note(self, runner: Any, what: str, epoch: int) -> None:
        if runner.rank == 0:
            model = getattr(runner.model, "module", runner.model)
            weight = float(sum(p.detach().double().abs().sum() for p in model.parameters()))
            entry = {"what": what, "epoch": epoch, "weight": weight, "lr": runner.optim_wrapper.get_lr()["lr"][0]}
            with (runner.work_dir / "spy.jsonl").open("a") as file:
                file.write(json.dumps({**entry, "start": runner.timestamp, "pid": os.getpid()}) + "\n")


def read_spy(folder: Path) -> list[dict[str, Any]]:
    """What the spy of a run has noted."""
    return [json.loads(line) for line in (folder / "spy.jsonl").read_text(encoding="utf-8").splitlines()]


def write_config(folder: Path, **changes: Any) -> Path:
    """Write ``toy.py``: toys with the variables ``lr``, ``epochs``, ``nap`` and ``mood``, a value computed from lr."""
    hook = {"type": f"{__name__}.Mood", "mood": "MOOD", "nap": "NAP"}
    cfg = toy_cfg(folder, custom_hooks=[hook, {"type": f"{__name__}.Spy"}], **changes)
    cfg.pop("work_dir")
    cfg["param_scheduler"] = [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 10},
        {
            "type": "CosineAnnealingLR",
            "T_max": "EPOCHS",
            "eta_min": "FLOOR",
            "end": "EPOCHS",
            "by_epoch": True,
            "convert_to_iter_based": True,
        },
    ]
    cfg["train_cfg"]["max_epochs"] = "EPOCHS"
    cfg["optim_wrapper"]["optimizer"]["lr"] = "RATE"
    text = cfg.pretty_text
    for name, source in (("EPOCHS", "epochs"), ("FLOOR", "lr * 0.1"), ("RATE", "lr"), ("MOOD", "mood"), ("NAP", "nap")):
        text = text.replace(repr(name), source)
    path = folder / "toy.py"
    path.write_text(VARIABLES + text, encoding="utf-8")
    return path
