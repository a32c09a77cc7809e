"""The README's examples of things of a user's own run as they stand there, file by file and config by config.

An example is a pair of fenced blocks, each behind a comment: ``<!-- example: NAME, FILE.py -->`` is the user's file,
``<!-- example: NAME, config -->`` what the config says. What it leaves out (the model, the data) is a toy's.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from raydet3d import registry
from raydet3d.config import Config
from raydet3d.runtime import assemble
from tests.kit.toy import toy_cfg

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- example: (?P<name>\w+), (?P<file>[\w.]+) -->\n```python\n(?P<text>.*?)```", re.DOTALL)
TABLES = ("HOOKS", "OPTIMIZERS", "PARAM_SCHEDULERS", "LOOPS")
NAMES = ("hook", "optimizer", "schedule", "loop")


def examples() -> dict[str, dict[str, str]]:
    """The blocks of each example, by file name."""
    found: dict[str, dict[str, str]] = {}
    for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")):
        found.setdefault(match["name"], {})[match["file"]] = match["text"]
    return found


def run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train the toy with an example's file and config."""
    blocks = dict(examples()[name])
    text = blocks.pop("config")
    for file, code in blocks.items():
        (folder / file).write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    (folder / "example.py").write_text(text, encoding="utf-8")
    for table in TABLES:
        monkeypatch.setattr(getattr(registry, table), "_table", dict(getattr(registry, table)._table))
    said = Config.fromfile(folder / "example.py").to_dict()
    said.pop("custom_imports")
    cfg = toy_cfg(folder / "run", log_level="ERROR", **said)
    runner = assemble(cfg)
    runner.train()
    for file in blocks:
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    return runner


def test_a_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "hook", monkeypatch)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["10", "20", "30"]


def test_an_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = run(tmp_path, "optimizer", monkeypatch)
    assert type(runner.optim_wrapper.optimizer).__name__ == "SignSGD"
    losses = runner.message_hub.get_scalar("train/loss").data
    assert sum(losses[-6:]) < sum(losses[:6])


def test_a_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = run(tmp_path, "schedule", monkeypatch)
    rates = runner.message_hub.get_scalar("train/lr").data
    assert rates[:6] == pytest.approx([0.01, 0.005, 0.0025, 0.00125, 0.01, 0.005])


def test_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = run(tmp_path, "loop", monkeypatch)
    assert type(runner.train_loop).__name__ == "PatientTrainLoop"
    assert runner.message_hub.get_scalar("val/toy/AP").count == 4


def test_all_examples_are_tested() -> None:
    assert set(examples()) <= set(NAMES)
