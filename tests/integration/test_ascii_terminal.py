"""Commands on a terminal that shows ASCII only, with names and texts that are not ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.runs import ROOT, write_config
from tests.kit.tiny_kitti import write_kitti

TERMINALS = {
    "ascii streams": ({"PYTHONIOENCODING": "ascii"}, "Fußgänger-汉"),
    "C locale": ({"LC_ALL": "C"}, "Fußgänger-汉"),
    # Python itself cannot encode such a folder's name here.
    "C locale without UTF-8 mode": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "plain"),
}


@pytest.mark.parametrize(
    "terminal", [pytest.param(name, marks=[pytest.mark.slow] * (name != "ascii streams")) for name in TERMINALS]
)
def test_every_command_prints_with_escapes(terminal: str, tmp_path: Path) -> None:
    variables, name = TERMINALS[terminal]
    folder = tmp_path / name
    config = write_config(folder, epochs=1, val_interval=1)
    source = config.read_text(encoding="utf-8")
    tests = "".join(f"test_{part} = val_{part}\n" for part in ("dataloader", "cfg", "evaluator"))
    config.write_text(f"# Grüße 汉\n{source}\n{tests}experiment_name = 'Fußgänger'\n", encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}

    def run(*words: object, code: int = 0) -> None:
        done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=folder, env=env, capture_output=True)
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == code, text
        assert "Error" not in text, text  # logging reports its own failures so, and goes on

    run("raydet3d.train", config, "--workers", 0, "--work-dir", "Größe" if name != "plain" else "work")
    (checkpoint,) = folder.glob("*/iter_24.pth")
    run("raydet3d.evaluate", config, checkpoint)
    for what in ("config", "schedule", "hooks", "groups"):
        run("raydet3d.show", what, config)
    run("raydet3d.data.prepare", "kitti", write_kitti(folder / "kitti"), "--workers", 2)
    run("raydet3d.train", config, "--cfg-options", "größe=3", code=2)
    run("raydet3d.train", "größe.py", code=2)
    run("raydet3d.tune", config, "größe.yaml", code=2)
    run("raydet3d.tune", "--report", "größe", code=2)
