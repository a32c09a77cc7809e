"""Signals to the process group of a sweep that has started a local Ray: its daemons survive, its trials save."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import sweeps
from tests.kit.groups import CommandGroup

pytestmark = pytest.mark.ray


def slow(number: signal.Signals) -> Any:
    return pytest.param(number, marks=pytest.mark.slow)


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
    assert "it resumes" in again.text()
