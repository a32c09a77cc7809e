"""Commands on a terminal that shows ASCII only, with names and texts that are not ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.kit.runs import ROOT, write_config
from tests.kit.small_detector import clouds_of, write_project
from tests.kit.strange_recorder import write_strange_folder
from tests.kit.tiny_kitti import write_kitti
from tests.kit.tiny_nuscenes import VERSION, write_nuscenes

TERMINALS = {
    "ascii streams": ({"PYTHONIOENCODING": "ascii"}, "Fußgänger-汉"),
    "C locale": ({"LC_ALL": "C"}, "Fußgänger-汉"),
    # Python itself cannot encode such a folder's name here.
    "C locale without UTF-8 mode": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "plain"),
}


MODES = pytest.mark.parametrize(
    "terminal", [pytest.param(name, marks=[pytest.mark.slow] * (name != "ascii streams")) for name in TERMINALS]
)


def run_on(folder: Path, terminal: str, *words: object, code: int = 0) -> str:
    """Run a command in a folder on a terminal, check its exit code, and return its output."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **TERMINALS[terminal][0]}
    done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=folder, env=env, capture_output=True)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == code, text
    assert "Error" not in text, text  # logging reports its own failures so, and goes on
    return text


@MODES
def test_every_command_prints_with_escapes(terminal: str, tmp_path: Path) -> None:
    _, name = TERMINALS[terminal]
    folder = tmp_path / name
    config = write_config(folder, epochs=1, val_interval=1)
    source = config.read_text(encoding="utf-8")
    tests = "".join(f"test_{part} = val_{part}\n" for part in ("dataloader", "cfg", "evaluator"))
    config.write_text(f"# Grüße 汉\n{source}\n{tests}experiment_name = 'Fußgänger'\n", encoding="utf-8")
    run = partial(run_on, folder, terminal)
    run("raydet3d.train", config, "--workers", 0, "--work-dir", "Größe" if name != "plain" else "work")
    (checkpoint,) = folder.glob("*/iter_24.pth")
    run("raydet3d.evaluate", config, checkpoint)
    run("raydet3d.report", checkpoint.parent)
    run("raydet3d.watch", checkpoint.parent, "--once")
    for what in ("config", "schedule", "hooks", "groups"):
        run("raydet3d.show", what, config)
    run("raydet3d.data.prepare", "kitti", write_kitti(folder / "kitti"), "--workers", 2)
    run("raydet3d.train", config, "--cfg-options", "größe=3", code=2)
    run("raydet3d.train", "größe.py", code=2)
    run("raydet3d.tune", config, "größe.yaml", code=2)
    run("raydet3d.tune", "--report", "größe", code=2)


@MODES
def test_commands_about_data_and_predictions_print_with_escapes(terminal: str, tmp_path: Path) -> None:
    _, name = TERMINALS[terminal]
    folder = tmp_path / name
    run = partial(run_on, folder, terminal)
    config, weights = write_project(folder, val=2)
    out = "Größe" if name != "plain" else "found"
    clouds = clouds_of(folder)
    bad = folder / (f"{name}.bin")
    bad.write_bytes(b"123")
    run("raydet3d.infer", config, weights, *clouds, bad, "--out", out, "--kitti", code=1)
    run("raydet3d.publish", weights, out)
    run("raydet3d.evaluate", config, weights, "--save-predictions", folder / out / "found.npz")
    run("raydet3d.data.check", config, "--out", f"{out}-check", "--workers", 0)
    own = write_strange_folder(folder / "own", train=2, val=1)
    run("raydet3d.data.prepare", "custom", own, "--workers", 0)
    tables = write_nuscenes(folder / "tables")
    run("raydet3d.data.prepare", "nuscenes", tables, "--version", VERSION, "--workers", 0)
    run("raydet3d.data.convert", "scene_tables", tables, f"{out}-own", "--version", VERSION)
    run("raydet3d.export", config, weights, "--format", "torch-export", "--out", f"{out}-graphs")
    speed = ("--only", "inference", "--seconds", 0.2, "--no-amp", "--device", "cpu", "--out", f"{out}.json")
    run("raydet3d.benchmark", config, *speed)
    run("raydet3d.show", "model", config)
