"""What the description of an exported detector says about the points that it takes."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from raydet3d.config import Config
from raydet3d.runtime.deployment import describe_deployment
from raydet3d.runtime.graph_files import GraphTensors
from raydet3d.runtime.inference import init_model
from tests.kit.strange_recorder import CONFIGS, write_strange_folder


def test_description_of_a_detector_for_own_recordings_says_how_their_clouds_are_converted(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "own", train=1, val=1)
    cfg = Config.fromfile(CONFIGS["pointpillars"], {"data_root": f"{root}/"})
    tensors: dict[str, GraphTensors] = {"pts_backbone_neck_head": (torch.zeros(1, 2, 3, 4), {})}
    points = describe_deployment(cfg, init_model(cfg, device="cpu"), [], tensors)["points"]
    (loading,) = json.loads(json.dumps(points))["loading"]
    assert loading["conventions"]["axes"] == ["right", "forward", "up"]
    assert loading["conventions"]["units"] == {"length": "cm", "angle": "deg", "time": "us"}
    assert loading["conventions"]["columns"] == ["x", "y", "z", "intensity"]
