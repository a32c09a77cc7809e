"""A sweep over a shipped config for own recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet3d.data.prepare import prepare_custom
from tests.kit.strange_recorder import CONFIGS, SMALL, write_strange_folder

pytestmark = pytest.mark.ray


def test_a_sweep_on_own_recordings(two_cpus: None, tmp_path: Path) -> None:
    from raydet3d.tune import sweep

    root = write_strange_folder(tmp_path / "s")
    prepare_custom(root)
    source = {
        "metric": "CenterDistance/mAP",
        "mode": "max",
        "trials": 2,
        "concurrency": 1,
        "space": {"lr": {"loguniform": [1e-4, 1e-2]}},
    }
    options = {**SMALL, "data_root": f"{root}/"}
    results = sweep(Path(CONFIGS["centerpoint"]), source, work_dir=tmp_path / "sweep", cfg_options=options)
    assert [trial.state for trial in results.trials] == ["done", "done"]
    assert all(trial.reports for trial in results.trials)
