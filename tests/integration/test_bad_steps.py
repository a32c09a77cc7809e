"""NaN from the first step, through the door: one line, exit code 2, and the samples and the module are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

CONFIG = """
custom_imports = dict(imports=["tests.kit.toy"], allow_failed_imports=False)
model = dict(type="tests.kit.toy.ToyModel", poison=list(range(1, 1000)))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="tests.kit.toy.ToyData"))
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1))
default_hooks = dict(logger=dict(type="LoggerHook", interval=5), guard=dict(type="GuardHook", policy="{policy}"))
"""


@pytest.mark.parametrize(
    ("policy", "end"),
    [
        ("skip", r"training ended at iteration 22: the last 22 steps in a row were bad; "),
        ("stop", r"training stopped at iteration 1; "),
        (
            "rollback",
            r"training ended at iteration 22: the last 22 steps in a row were bad, and there is no checkpoint ",
        ),
    ],
)
def test_nan_from_the_first_step(tmp_path: Path, policy: str, end: str) -> None:
    config = tmp_path / "nan.py"
    config.write_text(CONFIG.replace("{policy}", policy))
    command = [sys.executable, "-m", "raydet3d.train", str(config), "--workers", "0", "--work-dir", str(tmp_path / "w")]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("raydet3d: error:")]
    assert re.search(end, line), line
    assert re.search(r"samples \[\d+, \d+\]\): loss_fit was not finite", line)
