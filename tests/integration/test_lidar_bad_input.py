"""Bad LiDAR data: one line and exit 2 for what has to be mended, and training that goes on where it can."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d.cli import run_command
from raydet3d.train import main
from tests.kit.tiny_centerpoint import tiny_centerpoint, write_data

NO_SCORES = {f"{mode}_{part}": None for mode in ("val", "test") for part in ("dataloader", "cfg", "evaluator")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "nuscenes")


def run_train(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any,
    spoil: Callable[[Path], object], rename: tuple[str, str] = ("", ""), **changes: Any,
) -> tuple[int, list[str], Path]:  # fmt: skip
    """Exit code, lines of stderr and work dir of a training on spoilt data."""
    root, config, work_dir = tmp_path / "nuscenes", tmp_path / "tiny.py", tmp_path / "run"
    shutil.copytree(prepared, root)
    spoil(root)
    short = {"train_cfg": {"by_epoch": True, "max_epochs": 1}, **NO_SCORES, **changes}
    tiny_centerpoint(root, work_dir, **short).dump(config)
    config.write_text(config.read_text().replace(*rename))
    monkeypatch.setattr(sys, "argv", ["train", str(config), "--workers", "0"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    return int(ended.value.code or 0), capsys.readouterr().err.strip().splitlines(), work_dir


def cut_columns(root: Path) -> None:
    """Clouds of 4 numbers a point where 5 are expected."""
    for path in (root / "samples/LIDAR_TOP").iterdir():
        points = np.fromfile(path, np.float32).reshape(-1, 5)[:131, :4]
        path.write_bytes(np.ascontiguousarray(points).tobytes())


def remove_sweeps(root: Path) -> None:
    shutil.rmtree(root / "sweeps/LIDAR_TOP")
    (root / "sweeps/LIDAR_TOP").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_columns, ["samples/LIDAR_TOP/scene-0061__", "not a multiple of the 20 bytes of a point (5 float32)"]),
        (remove_sweeps, ["sweeps/LIDAR_TOP/scene-0061__", "No such file"]),
    ],
)
@pytest.mark.parametrize("loaders", [0, 1])
def test_clouds_that_cannot_be_read_are_one_line(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any,
    spoil: Callable[[Path], object], words: list[str], loaders: int,
) -> None:  # fmt: skip
    code, said, _ = run_train(prepared, tmp_path, monkeypatch, capsys, spoil, train_dataloader__num_workers=loaders)
    assert code == 2
    errors = [line for line in said if line.startswith("raydet3d: error: ")]
    assert len(errors) == 1, said
    assert not any("Traceback" in line for line in said)
    for word in words:
        assert word in errors[0]


def test_class_names_that_do_not_match_are_one_line(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    code, said, _ = run_train(prepared, tmp_path, monkeypatch, capsys, lambda root: None, rename=("'car'", "'cars'"))
    assert code == 2
    assert len([line for line in said if line.startswith("raydet3d: error: ")]) == 1
    assert "nuscenes_infos_train.pkl has no class 'cars'; did you mean 'car'?" in said[-1]


def spoil_coordinates(root: Path) -> None:
    """NaN and infinite coordinates in every cloud."""
    for path in [*(root / "samples/LIDAR_TOP").iterdir(), *(root / "sweeps/LIDAR_TOP").iterdir()]:
        points = np.fromfile(path, np.float32).reshape(-1, 5)
        points[::7, 0] = np.nan
        points[3::7, 2] = np.inf
        path.write_bytes(points.tobytes())


def empty_clouds(root: Path) -> None:
    """Two keyframes and all sweeps without a point."""
    keyframes = sorted((root / "samples/LIDAR_TOP").glob("scene-0061*"))[:2]
    for path in [*keyframes, *(root / "sweeps/LIDAR_TOP").iterdir()]:
        path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoil_coordinates, empty_clouds])
def test_training_goes_on_without_points_and_with_points_that_are_no_numbers(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, spoil: Callable[[Path], object]
) -> None:
    code, said, work_dir = run_train(prepared, tmp_path, monkeypatch, capsys, spoil)
    assert code == 0, "\n".join(said[-30:])
    assert all_finite(work_dir)


def test_training_goes_on_with_frames_without_objects(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def drop(cfg: Any) -> Any:
        """No object is within the range, and frames without objects are kept."""
        cfg["filter_empty_gt"] = False
        cfg["pipeline"] = [
            {**step, "point_cloud_range": [0, 0, 50, 1, 1, 51]} if step["type"] == "ObjectRangeFilter" else step
            for step in cfg["pipeline"]
        ]
        return cfg

    dataset = drop(tiny_centerpoint(prepared, "").train_dataloader.dataset.dataset.to_dict())
    dataset["data_root"] = f"{tmp_path}/nuscenes/"
    code, said, work_dir = run_train(
        prepared, tmp_path, monkeypatch, capsys, lambda root: None, train_dataloader__dataset__dataset=dataset
    )
    assert code == 0, "\n".join(said[-30:])
    assert all_finite(work_dir)


def all_finite(work_dir: Path) -> bool:
    """Whether losses and weights are finite."""
    lines = [json.loads(line) for line in (work_dir / "scalars.json").read_text().splitlines()]
    weights = torch.load(work_dir / "epoch_1.pth", weights_only=True)["state_dict"]
    return all(np.isfinite(line["loss"]) for line in lines if "loss" in line) and all(
        bool(value.isfinite().all()) for value in weights.values()
    )
