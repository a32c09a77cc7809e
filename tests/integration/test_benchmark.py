"""The benchmark command and `show model`, as a shell sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
TOWN = "configs/demo/pointpillars_town.py"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, check=False)


def test_report_as_json_and_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "speed.json"
    options = ("--cfg-options", f"data_root={tmp_path}/")  # no data there: generated frames
    flags = ("--device", "cpu", "--seconds", "0.1", "--no-amp", "--batch-size", "1", "--json", "--out", str(file))
    done = call("raydet3d.benchmark", TOWN, *flags, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads(file.read_text()) == report
    assert "kitti_infos_train.pkl does not exist" in report["loading_left_out"]
    assert report["loading"] is None
    assert report["training_amp"] is None
    for name in ("training", "inference"):
        assert report["frames"][name].startswith("8 generated frames")
        speed = report[name]
        assert speed["steps"] >= 3
        assert speed["samples_per_s"] == pytest.approx(speed["batch_size"] * 1e3 / speed["step_ms"]["mean"])
        assert 100 < speed["peak_memory_mb"] < 20000
        assert list(speed["costs_ms"].values()) == sorted(speed["costs_ms"].values(), reverse=True)
    assert report["advice"][0].startswith("voxelization takes")


def test_show_model_prints_what_its_json_holds() -> None:
    done = call("raydet3d.show", "model", TOWN, "--json")
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert whole["parameters"] == 184_392
    assert whole["multiply_adds"] == sum(part["multiply_adds"] for part in whole["parts"]) > 0
    assert [part["name"] for part in whole["parts"]][-1] == "bbox_head"
    text = call("raydet3d.show", "model", TOWN).stdout
    assert "184,392" in text
    assert f"{whole['multiply_adds'] / 1e9:.3f} G" in text


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--batch-size", "0"), "--batch-size must be 1 or more, got 0"),
        (("--num-workers", "-1"), "--num-workers must be 0 or more, got -1"),
        (("--checkpoint", "none.pth"), "checkpoint none.pth does not exist"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], word: str) -> None:
    done = call("raydet3d.benchmark", TOWN, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert word in done.stderr
