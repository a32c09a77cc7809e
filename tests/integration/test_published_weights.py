"""Files of MMDetection3D's layout load into SECOND and CenterPoint: names, both sparse layouts, history objects."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from raydet3d.checkpoint.load_weights import load_checkpoint
from raydet3d.errors import InputError
from raydet3d.registry import MODELS
from tests.kit.lidar import center_point, fill, second

MODELS_OF = {"second": second, "centerpoint_voxel": lambda: center_point("voxel01"), "centerpoint_pillar": center_point}


def build(make: Callable[[], dict[str, Any]]) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = MODELS.build(make())
    return model


def write_theirs(path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch, *, spconv2: bool) -> None:
    """A checkpoint as MMEngine writes it, with objects of classes that are not installed here."""
    state = dict(model.state_dict())
    for name, value in state.items():
        if value.ndim == 5 and spconv2:
            state[name] = value.permute(4, 0, 1, 2, 3).contiguous()
    module = ModuleType("mmengine.logging.history_buffer")
    buffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = buffer  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        history = buffer()
        history._log_history = torch.arange(3.0)
        torch.save(
            {
                "meta": {
                    "epoch": 80,
                    "iter": 30000,
                    "mmengine_version": "0.10.4",
                    "dataset_meta": {"classes": ["Car"]},
                },
                "state_dict": state,
                "message_hub": {"log_scalars": {"train/loss": history}, "runtime_info": {}, "resumed_keys": {}},
                "optimizer": {"state": {}, "param_groups": []},
                "param_schedulers": [],
            },
            path,
        )


@pytest.mark.parametrize("name", MODELS_OF)
@pytest.mark.parametrize("spconv2", [False, True], ids=["mmcv", "spconv2"])
def test_weights_of_either_sparse_layout_are_loaded(
    name: str, spconv2: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = build(MODELS_OF[name]), build(MODELS_OF[name])
    fill(theirs)
    write_theirs(tmp_path / "theirs.pth", theirs, monkeypatch, spconv2=spconv2)
    load_checkpoint(ours, tmp_path / "theirs.pth", strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_entries_of_a_preprocessor_do_not_keep_weights_from_loading(tmp_path: Path) -> None:
    theirs, ours = build(second), build(second)
    fill(theirs)
    state = {**theirs.state_dict(), "data_preprocessor.mean": torch.zeros(3, 1, 1)}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "theirs.pth")
    load_checkpoint(ours, tmp_path / "theirs.pth", strict=False)
    assert torch.equal(ours.state_dict()["bbox_head.conv_cls.weight"], state["bbox_head.conv_cls.weight"])


def test_weights_of_another_detector_are_refused_with_their_names(tmp_path: Path) -> None:
    torch.save({"state_dict": build(center_point).state_dict()}, tmp_path / "centerpoint.pth")
    with pytest.raises(InputError, match=r"pts_backbone\."):
        load_checkpoint(build(second), tmp_path / "centerpoint.pth", strict=False)
