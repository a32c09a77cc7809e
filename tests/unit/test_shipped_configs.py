"""The shipped configs: every ``type=`` is in a table, every model builds, every run config says what it is for."""

import ast
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raydet3d import registry
from raydet3d.config import Config, configs_root
from raydet3d.config.section_schemas import KNOWN_KEYS
from raydet3d.models.layers.build_layer import ACTIVATIONS, CONVS, NORMS, UPSAMPLES
from raydet3d.registry import Registry

ROOT = configs_root()
assert ROOT is not None
FILES = sorted(ROOT.rglob("*.py"))
RUNS = [path for path in FILES if "_base_" not in path.parts]
TABLES = [value for value in vars(registry).values() if isinstance(value, Registry)]
LAYERS = {"norm_cfg": NORMS, "conv_cfg": CONVS, "upsample_cfg": UPSAMPLES, "act_cfg": ACTIVATIONS}


def types(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield where, value["type"]
        for key, item in value.items():
            yield from types(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from types(item, f"{where}.{index}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_type_of_shipped_configs_is_registered(path: Any) -> None:
    unknown = [
        f"{where}: {name}"
        for where, name in types(Config.fromfile(path).to_dict())
        if not any(name in table for table in [*TABLES, LAYERS.get(where.rpartition(".")[2], {})])
    ]
    assert not unknown


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_run_configs_are_complete_and_their_models_build(path: Any) -> None:
    cfg = Config.fromfile(path)
    needed = {
        "model",
        "train_dataloader",
        "val_dataloader",
        "optim_wrapper",
        "train_cfg",
        "default_hooks",
        "visualizer",
    }
    assert needed <= set(cfg)
    with torch.device("meta"):
        model = registry.MODELS.build(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1000


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_run_configs_begin_with_score_and_command(path: Any) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"python -m raydet3d.train configs/{path.relative_to(ROOT).as_posix()}" in text


def test_published_model_has_its_published_size() -> None:
    """126 tensors and 4,834,888 parameters, as the published checkpoint has."""
    with torch.device("meta"):
        cfg = Config.fromfile("pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py")
        model = registry.MODELS.build(cfg.model)
    assert len(model.state_dict()) == 126
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_834_888


def test_known_keys_and_their_types_fit_the_shipped_configs() -> None:
    for path in RUNS:
        for key, value in Config.fromfile(path).items():
            if key in KNOWN_KEYS and value is not None:
                assert isinstance(value, KNOWN_KEYS[key]), f"{path.name}: {key}"
