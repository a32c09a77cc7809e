"""A sweep over CenterPoint with CBGS, sweeps of the LiDAR and deformable heads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.tiny_centerpoint import tiny_centerpoint, write_data

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("two_cpus")
def test_trials_train_and_are_ranked(tmp_path: Path) -> None:
    from raydet3d.tune import sweep

    root = write_data(tmp_path / "nuscenes")
    config = tmp_path / "tiny.py"
    cfg = tiny_centerpoint(root, tmp_path / "unused", train_cfg={"by_epoch": True, "max_epochs": 1, "val_interval": 1})
    cfg.pop("work_dir")
    cfg.dump(config)
    results = sweep(
        config,
        {
            "metric": "NDS",
            "mode": "max",
            "search": "grid",
            "space": {
                "optim_wrapper.optimizer.lr": [0.001, 0.004],
                "train_dataloader.dataset.dataset.pipeline.1.sweeps_num": [2],
            },
            "keep": {"trials": 1},
        },
        work_dir=tmp_path / "sweep",
    )
    assert [trial.state for trial in results.trials] == ["done", "done"]
    assert all(trial.best("max") is not None for trial in results.trials)
    assert results.best is not None
