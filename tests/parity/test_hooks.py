"""Averages of weights, checkpoints' names and early stops, against what MMEngine 0.10.7 did with the same runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.hooks import CheckpointHook
from raydet3d.metrics import BaseMetric
from raydet3d.registry import MODELS
from raydet3d.runtime import Runner, assemble
from tests.kit.mmengine import skip_without_mmengine
from tests.kit.optim import read_table
from tests.parity.mmengine_hooks import (
    AVERAGES,
    BATCHES,
    CHECKPOINTS,
    EPOCHS,
    RULES,
    SCORES,
    STOPS,
    Toy,
    average,
    look,
)

TABLE = read_table("hooks")


def _title(case: Mapping[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in case["cfg"].items()).replace("/", "_")


def test_the_table_is_whole() -> None:
    for key, cases in (("averages", AVERAGES), ("checkpoints", CHECKPOINTS), ("stops", STOPS)):
        assert [case["cfg"] for case in TABLE[key]] == cases
    assert list(TABLE["rules"]) == RULES


@pytest.mark.parametrize("case", TABLE["averages"], ids=_title)
def test_averages(case: Mapping[str, Any]) -> None:
    state = average(lambda cfg, model: MODELS.build(cfg, {"model": model}), case["cfg"])
    assert state == case["state"]  # to the last bit


class Scores(BaseMetric):
    """Gives the next row of scores at each validation."""

    default_prefix = "m"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        self.calls += 1
        return {name.removeprefix("m/"): values[self.calls - 1] for name, values in SCORES.items()}


def run(folder: Path, hook: Mapping[str, Any], *custom: Mapping[str, Any]) -> Runner:
    loader = {
        "dataset": {"type": lambda: list(range(BATCHES))},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "batch_size": 1,
        "num_workers": 0,
    }
    runner = assemble(
        {
            "work_dir": str(folder / "work"),
            "model": {"type": Toy},
            "train_dataloader": loader,
            "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01}},
            "param_scheduler": [{"type": "MultiStepLR", "milestones": [2]}],
            "val_dataloader": loader,
            "val_cfg": {},
            "val_evaluator": {"type": Scores},
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", **hook}},
            "custom_hooks": list(custom),
            "log_level": "ERROR",
        }
    )
    runner.train()
    return runner


@pytest.mark.parametrize("case", TABLE["checkpoints"], ids=_title)
def test_checkpoints(case: Mapping[str, Any], tmp_path: Path) -> None:
    hook = dict(case["cfg"])
    if "out_dir" in hook:
        hook["out_dir"] = str(tmp_path / hook["out_dir"])
    run(tmp_path, hook)
    found = look(tmp_path)
    # MMEngine saves a regular checkpoint again, off its interval too, whenever there is a new best, so that it knows of
    # it. Ours need not: what was best is known to every later checkpoint, and a resume validates again what came after.
    expected = [name for name in case["files"] if not _is_extra(name, case["cfg"])]
    assert found["files"] == expected
    assert found["last"] == case["last"]
    for what in ("keys", "counts"):
        assert found[what] == {name: case[what][name] for name in found[what]}, what


def _is_extra(path: str, cfg: Mapping[str, Any]) -> bool:
    name = Path(path).stem
    by_epoch = cfg.get("by_epoch", True)
    number = name.removeprefix("epoch_" if by_epoch else "iter_").removeprefix("e")
    end = EPOCHS if by_epoch else EPOCHS * BATCHES
    if not ("save_best" in cfg and number.isdigit()) or int(number) == end:
        return False
    return int(number) % cfg["interval"] != 0


@pytest.mark.parametrize("case", TABLE["stops"], ids=_title)
def test_early_stops(case: Mapping[str, Any], tmp_path: Path) -> None:
    quiet = {"interval": -1, "save_last": False}
    runner = run(tmp_path, quiet, {"type": "EarlyStoppingHook", **case["cfg"]})
    assert runner.epoch == case["epochs"]


@pytest.mark.parametrize("metric", RULES)
def test_rules(metric: str) -> None:
    expected = TABLE["rules"][metric]
    if expected is None:
        with pytest.raises(InputError, match="is more or less of"):
            CheckpointHook(save_best=metric)
    else:
        assert CheckpointHook(save_best=metric)._rules == {metric: expected}


def test_an_averaged_checkpoint_has_the_same_layout_and_numbers(tmp_path: Path) -> None:
    run(tmp_path, {"interval": 2}, {"type": "EMAHook", "momentum": 0.25, "begin_iter": 3})
    saved = torch.load(tmp_path / "work" / "epoch_2.pth", weights_only=True)
    for key, expected in TABLE["ema"].items():
        assert {name: tensor.tolist() for name, tensor in saved[key].items()} == expected


def test_the_table_is_what_mmengine_says() -> None:
    python = os.environ.get("RAYDET3D_MMENGINE_PYTHON")
    skip_without_mmengine()
    script = Path(__file__).with_name("mmengine_hooks.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    said = subprocess.run(
        [python or sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout) == TABLE
