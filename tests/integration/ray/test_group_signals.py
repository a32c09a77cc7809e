"""Signals to the process group of a command that has started a local Ray: its daemons survive, the run saves."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import sweeps
from tests.kit.groups import CommandGroup
from tests.kit.runs import assert_same_weights, finish, read_reached, write_config

pytestmark = pytest.mark.ray
SLOW = {"type": "Slow", "seconds": 0.1}


def slow(number: signal.Signals) -> Any:
    return pytest.param(number, marks=pytest.mark.slow)


@pytest.mark.parametrize("number", [signal.SIGTERM, *map(slow, (signal.SIGUSR1, signal.SIGINT))], ids=lambda n: n.name)
def test_run_on_a_local_ray_saves_and_resumes(number: signal.Signals, tmp_path: Path) -> None:
    whole = finish(write_config(tmp_path / "whole"), "--workers", 0).work_dir
    config = write_config(tmp_path / "run", SLOW, loaders=2)
    work_dir = config.parent / "work"
    words = ["-m", "raydet3d.train", config, "--work-dir", work_dir, "--workers", 1]
    run = CommandGroup(words, config.parent)
    try:
        run.until(lambda: (read_reached(work_dir) or 0) >= 5, timeout_s=180)
        assert not run.members(), "Ray's daemons are in the command's group"
        run.signal_group(number)
        assert run.wait() == (130 if number is signal.SIGINT else 75), run.text()
        assert f"Stopped ({number.name})" in run.text()
    finally:
        run.close()
    assert list(work_dir.glob("stop_iter_*.pth"))
    finish(config, "--workers", 1)
    assert_same_weights(work_dir, whole, 72)


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)], ids=lambda n: n.name)
def test_sweep_on_a_local_ray_resumes(number: signal.Signals, tmp_path: Path) -> None:
    config = sweeps.write_config(tmp_path)
    spec = {
        "metric": "toy/AP", "mode": "max", "trials": 2, "concurrency": 1, "space": {"lr": [0.01, 0.02]},
        "resources": {"cpus": 1}, "cfg_options": {"nap": 0.5, "train_dataloader.num_workers": 2},
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(spec))
    words = ["-m", "raydet3d.tune", config, tmp_path / "sweep.yaml", "--work-dir", tmp_path / "sweep"]
    run = CommandGroup(words, tmp_path)
    try:
        run.until(lambda: list((tmp_path / "sweep").glob("trials/*/epoch_2.pth")), timeout_s=180)
        assert not run.members()
        run.signal_group(number)
        assert run.wait() == (130 if number is signal.SIGINT else 75), run.text()
    finally:
        run.close()
    again = CommandGroup(words, tmp_path)
    assert again.wait(180) == 0, again.text()
    assert "it goes on" in again.text()
