"""PointPillars and CenterPoint train on own recordings, with sweeps, and a resumed run is the undisturbed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d.config import Config
from raydet3d.data import LoadCustomPointsFromFile
from raydet3d.data.prepare import prepare_custom
from raydet3d.registry import DATASETS
from raydet3d.runtime import assemble
from tests.kit.close import assert_close
from tests.kit.input_errors import message
from tests.kit.strange_recorder import CONFIGS, SMALL, town_frame, write_strange_folder
from tests.kit.toy import SaveAt


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames with a sweep each, prepared. Not to be written to."""
    root = write_strange_folder(tmp_path_factory.mktemp("data") / "s", sweeps=1, velocities=True)
    prepare_custom(root)
    return root


def read(name: str, root: Path, work_dir: Path, *saves: int, **changes: Any) -> Config:
    """A shipped config with variables for the folder, on little space and with few channels."""
    own = {"with_velocity": True} if name == "centerpoint" else {}
    options = {**SMALL, "data_root": f"{root}/", "load_dim": 5, "sweeps_num": 1, **own, **changes}
    cfg = Config.fromfile(CONFIGS[name], options=options)
    cfg.work_dir = str(work_dir)
    cfg.custom_hooks = [{"type": SaveAt, "iters": list(saves)}]
    cfg.default_hooks.checkpoint = {"type": "CheckpointHook", "save_last": False}
    cfg.default_hooks.visualization = {"type": "Det3DVisualizationHook", "draw": False}
    cfg.visualizer = {"type": "Visualizer", "vis_backends": []}
    cfg.randomness = {"seed": 0}
    return cfg


@pytest.mark.parametrize("name", CONFIGS)
def test_a_resumed_run_is_the_undisturbed_one(name: str, stranger: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    done = assemble(read(name, stranger, whole, 1, 3, 4)).train()
    for stop in (1, 3):
        again = assemble(read(name, stranger, part / str(stop), 4), resume=str(whole / f"iter_{stop}.pth")).train()
        one, other = (torch.load(folder / "iter_4.pth", weights_only=True) for folder in (whole, part / str(stop)))
        assert one["state_dict"].keys() == other["state_dict"].keys()
        assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
        assert again["metrics"] == done["metrics"]
    first = torch.load(whole / "iter_1.pth", weights_only=True)["state_dict"]
    assert any(not torch.equal(value, one["state_dict"][key]) for key, value in first.items())
    assert all(value.isfinite().all() for value in one["state_dict"].values() if value.is_floating_point())
    assert {"Box3DAP/mAP_3D", "CenterDistance/mAP", "CenterDistance/car_AP_dist_0.5"} <= set(done["metrics"])


@pytest.mark.parametrize("name", CONFIGS)
def test_classes_and_columns_follow_the_variables(name: str, stranger: Path, tmp_path: Path) -> None:
    anchors = {"anchor_sizes": [[0.8, 0.6, 1.7], [4, 1.7, 1.6]], "anchor_bottoms": [-1.7, -1.7]}
    more = anchors if name == "pointpillars" else {}
    cfg = read(name, stranger, tmp_path, 2, class_names=["pedestrian", "car"], class_colors=[[1, 2, 3]] * 2, **more)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.metainfo["classes"] == ("pedestrian", "car")
    assert dataset.metainfo["palette"] == ([1, 2, 3], [1, 2, 3])
    inputs = dataset[0]["inputs"]["points"]
    assert inputs.shape[1] == 5
    # The sweep's points have a time lag of 0.1 s, those of pasted objects both times.
    assert set(np.round(inputs[:, 4].unique().numpy(), 3)) <= {np.float32(0.0), np.float32(0.1)}
    wrong = read(name, stranger, tmp_path, load_dim=4, sweeps_num=0)
    assert "load_dim=4" in message(lambda: assemble(wrong).train())


def test_a_test_pipeline_takes_clouds_as_the_recorder_wrote_them(stranger: Path, tmp_path: Path) -> None:
    step = LoadCustomPointsFromFile(str(stranger), load_dim=5, use_dim=5)
    points, _ = town_frame(0)
    for path in ("points/drive0/0000.pcd", "points_prepared/drive0/0000.bin"):
        found = step({"lidar_path": str(stranger / path)})["points"]
        assert_close(found[:, :4], points, atol=1e-4)
        assert found.dtype == np.float32
    other = LoadCustomPointsFromFile(str(stranger), load_dim=7, use_dim=4)
    assert "load_dim=7" in message(lambda: other({"lidar_path": str(stranger / "points/drive0/0000.pcd")}))
    elsewhere = LoadCustomPointsFromFile(str(tmp_path / "gone"), load_dim=4, use_dim=4)
    assert "gone does not exist" in message(lambda: elsewhere({"lidar_path": str(stranger / "points/drive0/0000.pcd")}))
