"""Shipped LiDAR configs against those of MMDetection3D: tensors of the models, and values (`lidar_models.py`)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.config import Config
from raydet3d.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    gzip.decompress(Path(__file__).with_name("lidar_models.json.gz").read_bytes())
)
SHIPPED = sorted(name for name in PUBLISHED if (CONFIGS / name).is_file())


def test_the_families_are_shipped() -> None:
    assert {name.split("/")[0] for name in SHIPPED} >= {"second", "centerpoint", "pointpillars"}


@pytest.mark.parametrize("name", SHIPPED)
def test_tensors_are_those_of_the_original(name: str) -> None:
    with torch.device("meta"):
        model = MODELS.build(Config.fromfile(CONFIGS / name).to_dict()["model"])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == PUBLISHED[name]["tensors"]


@pytest.mark.parametrize("name", SHIPPED)
def test_values_are_those_of_the_original(name: str) -> None:
    ours = json.loads(json.dumps(Config.fromfile(CONFIGS / name).to_dict()))
    for section, published in PUBLISHED[name]["config"].items():
        assert differences(ours[section], published, section) == []


def differences(ours: Any, theirs: Any, place: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(ours.keys() | theirs.keys())
        return [line for key in keys for line in differences(ours.get(key), theirs.get(key), f"{place}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{place}[{i}]")]
    if place.endswith(".type"):  # a scope before a name is dropped
        ours, theirs = str(ours).rpartition(".")[2], str(theirs).rpartition(".")[2]
    return [] if ours == theirs else [f"{place}: {ours!r}, published {theirs!r}"]
