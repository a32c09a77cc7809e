"""CenterPoint's demo in a short form: a small town in nuScenes' layout, a submission and scores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo" / "centerpoint_town.py"
SHORT = ["epoch_num=1", "num_keyframes=2", "azimuth_step_deg=2.0", "images=False"]


def test_the_short_demo_trains_validates_and_prints_its_scores(tmp_path: Path) -> None:
    # In one process: two Ray workers train PointPillars' demo (ray/test_demo.py).
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "raydet3d.train", str(DEMO), "--workers", "0", "--cfg-options", *SHORT]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert re.search(r"NDS: \d\.\d+", run.stdout.splitlines()[-1] + run.stdout.splitlines()[-2])
    work_dir = tmp_path / "work_dirs" / "centerpoint_town"
    assert (work_dir / "epoch_1.pth").exists()
    lines = map(json.loads, (work_dir / "scalars.json").read_text().splitlines())
    names = {key.rsplit("/", 1)[-1] for line in lines for key in line}
    assert {"mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE", "car_AP_dist_0.5", "barrier_trans_err"} <= names
