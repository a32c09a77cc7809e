"""The report of a run with two resumes, one killed worker and two bad steps: one curve, with its marks."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raydet3d.reports.run_files import read_run
from raydet3d.reports.run_report import best_value
from tests.kit.runs import ROOT, Run, finish, starts, write_config

pytestmark = pytest.mark.ray


def test_the_report_of_a_disturbed_run_has_one_curve_with_marks(tmp_path: Path) -> None:
    kill = {"type": "KillAt", "rank": 1, "at": [22], "folder": str(tmp_path / "deaths")}
    poison = {"type": "PoisonAt", "at": [7, 28]}
    config = write_config(
        tmp_path,
        {"type": "Slow", "seconds": 0.1},
        kill,
        poison,
        ray={"num_workers": 2},
        epochs=4,
        val_interval=1,
        trace=False,
    )
    for stop_at in (13, 30):
        run = Run(config)
        run.until(run.reached(stop_at))
        run.signal(signal.SIGTERM)
        assert run.wait() == 75, run.text()[-4000:]
    finish(config)

    work_dir = tmp_path / "work"
    found = read_run(work_dir)
    assert found.is_finished
    whys = [start.get("why", "") for start in found.restarts]
    assert [bool(why) for why in whys] == [False, True, False]
    assert "died" in whys[1]
    assert found.restarts[1]["iteration"] + found.restarts[1]["redone"] == 22
    assert found.bad_steps == [7, 28]
    iterations = found.scalars["train"]["iter"].tolist()
    assert iterations == sorted(set(iterations))
    assert iterations == [12 * epoch + batch for epoch in range(4) for batch in (5, 10)]
    best = best_value(found, "toy/AP")
    assert best is not None
    assert best[0] == max(found.scalars["val"]["toy/AP"])
    assert found.scalars["val"]["toy/AP"][-1] == pytest.approx(found.result["metrics"]["toy/AP"])

    command = [sys.executable, "-m", "raydet3d.report", str(work_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(work_dir / "report.html") in done.stdout
    page = (work_dir / "report.html").read_text()
    (loss,) = re.findall(r'<svg class="chart"[^>]*aria-label="Loss">.*?</svg>', page, re.DOTALL)
    assert loss.count("<polyline") == 1
    marks = re.findall(r"<title>(restart at iteration \d+|bad step \d+)", loss)
    resumed = [f"restart at iteration {start['from']}" for start in starts(work_dir)[1:]]
    assert marks == [*resumed, "bad step 7", "bad step 28"]
    for name in ("Learning rate", "Momentum", "Gradient norm", "Seconds per iteration"):
        assert f'aria-label="{name}"' in page
    assert "rank 1" in page
