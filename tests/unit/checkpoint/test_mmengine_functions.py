"""MMEngine's checkpoint functions, as a script or a backbone's `init_weights` uses them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from raydet3d.checkpoint import mmengine_functions as functions
from raydet3d.errors import InputError


def make_model() -> nn.Sequential:
    return nn.Sequential(OrderedDict(backbone=nn.Linear(2, 3), backbone_2=nn.Linear(3, 3), norm=nn.BatchNorm1d(3)))


def test_weights_of_one_part(tmp_path: Path) -> None:
    model = make_model()
    functions.save_checkpoint({"state_dict": model.state_dict()}, tmp_path / "in" / "w.pth")
    weights = functions.read_weights_below("backbone", str(tmp_path / "in" / "w.pth"))
    assert list(weights) == ["weight", "bias"]
    assert torch.equal(weights["weight"], model[0].weight)
    with pytest.raises(AssertionError, match="neck"):
        functions.read_weights_below("neck", tmp_path / "in" / "w.pth")
    content = functions.CheckpointLoader.load_checkpoint(str(tmp_path / "in" / "w.pth"), map_location="cpu")
    assert set(content) == {"state_dict"}


def test_bare_weights_come_back_as_they_are(tmp_path: Path) -> None:
    functions.save_checkpoint(make_model().state_dict(), str(tmp_path / "w.pth"))
    content = functions.read_weights_file(str(tmp_path / "w.pth"), map_location=None)
    assert set(content) == set(make_model().state_dict())


def test_names_without_wrappers_at_any_depth() -> None:
    model = make_model()
    model[0] = nn.DataParallel(model[0])
    weights = functions.get_state_dict(nn.DataParallel(model))
    assert set(weights) == set(make_model().state_dict())
    assert set(functions.get_state_dict(model, OrderedDict(x=1), prefix="m.")) == {"x", *(f"m.{k}" for k in weights)}
    assert functions.weights_to_cpu(weights)["norm.weight"].device.type == "cpu"


def test_what_does_not_fit_is_refused_or_logged() -> None:
    model = make_model()
    functions.load_state_dict(model, {"backbone.weight": torch.ones(3, 2), "x": torch.ones(1)})
    assert model[0].weight.sum() == 6
    with pytest.raises(InputError, match="x"):
        functions.load_state_dict(model, {"x": torch.ones(1)}, strict=True)


def test_newest_checkpoint_of_a_work_dir(tmp_path: Path) -> None:
    assert functions.find_latest_checkpoint(tmp_path) is None
    (tmp_path / "last_checkpoint").write_text("epoch_2.pth")
    assert functions.find_latest_checkpoint(str(tmp_path)) == str(tmp_path / "epoch_2.pth")
