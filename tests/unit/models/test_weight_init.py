"""First values of weights against torch's own functions, from the same seed; layers, overrides, checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_norm_layer
from raydet3d.models.module import BaseModule, ModuleDict, ModuleList, Sequential
from raydet3d.models.weight_init import bias_init_with_prob, initialize, kaiming_init

CASES: list[tuple[dict[str, Any], Any]] = [
    ({"type": "Constant", "val": 2.0}, lambda w: nn.init.constant_(w, 2.0)),
    ({"type": "Xavier", "gain": 2, "distribution": "uniform"}, lambda w: nn.init.xavier_uniform_(w, 2)),
    ({"type": "XavierInit"}, nn.init.xavier_normal_),
    ({"type": "Normal", "mean": 1, "std": 0.1}, lambda w: nn.init.normal_(w, 1, 0.1)),
    ({"type": "TruncNormal", "std": 0.1, "a": -0.1, "b": 0.1}, lambda w: nn.init.trunc_normal_(w, 0, 0.1, -0.1, 0.1)),
    ({"type": "Uniform", "a": -1, "b": 0}, lambda w: nn.init.uniform_(w, -1, 0)),
    ({"type": "Kaiming"}, lambda w: nn.init.kaiming_normal_(w, 0, "fan_out", "relu")),
    ({"type": "Caffe2Xavier"}, lambda w: nn.init.kaiming_uniform_(w, 1, "fan_in", "leaky_relu")),
]


@pytest.mark.parametrize(("cfg", "torchs"), CASES, ids=lambda case: case["type"] if isinstance(case, dict) else "")
def test_values_are_torchs(cfg: dict[str, Any], torchs: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2))
    before = model[1].weight.clone()
    torch.manual_seed(1)
    initialize(model, {**cfg, "layer": "Conv2d", "bias": 0.5})
    torch.manual_seed(1)
    expected = torchs(torch.empty(4, 3, 3, 3))
    assert torch.equal(model[0].weight, expected)
    assert torch.equal(model[0].bias, torch.full((4,), 0.5))
    assert torch.equal(model[1].weight, before)


def test_layers_count_by_what_they_are_made_from_and_no_layer_is_none() -> None:
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(Mine(2, 2))
    initialize(model, [{"type": "Constant", "val": 3.0, "layer": ["Linear"]}, {"type": "Constant", "val": 9.0}])
    assert (model[0].weight == 3).all()


def test_overrides() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2), "rest": nn.Linear(2, 2)})
    initialize(
        model,
        {
            "type": "Constant",
            "layer": "Linear",
            "val": 1.0,
            "override": [{"type": "Constant", "name": "head", "val": 2.0, "bias_prob": 0.01}, {"name": "norm"}],
        },
    )
    assert [float(model[name].weight.flatten()[0]) for name in ("rest", "head", "norm")] == [1, 2, 1]
    assert float(model["head"].bias[0]) == pytest.approx(bias_init_with_prob(0.01)) == pytest.approx(-math.log(99))
    with pytest.raises(InputError, match="'haed'"):
        initialize(model, {"type": "Constant", "val": 1, "override": {"name": "haed"}})
    with pytest.raises(InputError, match="no type"):
        initialize(model, {"type": "Constant", "val": 1, "override": {"name": "head", "val": 2}})
    with pytest.raises(InputError, match="'Kaimng'"):
        initialize(model, {"type": "Kaimng"})
    with pytest.raises(InputError, match="distribution"):
        kaiming_init(nn.Linear(2, 2), distribution="normol")


class Part(BaseModule):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.layer = nn.Linear(2, 2)


def test_init_cfg_of_parts_applies_before_a_pretrained_checkpoint(tmp_path: Path) -> None:
    weights = {"module.0.layer.bias": torch.full((2,), 7.0), "other.x": torch.zeros(1)}
    torch.save(
        {"state_dict": {f"backbone.{name.removeprefix('module.')}": v for name, v in weights.items()}},
        tmp_path / "w.pth",
    )
    fill = {"type": "Constant", "layer": "Linear", "val": 1.0}
    model = Sequential(
        Part({**fill, "val": 5.0}),
        Part(),
        init_cfg=[{"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth"), "prefix": "backbone"}, fill],
    )
    assert not model.is_init
    model.init_weights()
    assert model.is_init
    assert (model[0].layer.weight == 5).all()  # its own word comes after that of what holds it
    assert (model[1].layer.weight == 1).all()
    assert (model[0].layer.bias == 7).all()
    assert len(model) == 2


def test_an_unusable_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth does not exist"):
        initialize(Part(), {"type": "Pretrained", "checkpoint": str(tmp_path / "none.pth")})
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no entries under prefix 'neck'"):
        initialize(Part(), {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth"), "prefix": "neck"})


def test_lists_and_dicts_of_modules() -> None:
    fill = {"type": "Constant", "layer": "Linear", "val": 4.0}
    for made in (ModuleList([nn.Linear(1, 1)], init_cfg=fill), ModuleDict({"a": nn.Linear(1, 1)}, init_cfg=fill)):
        made.init_weights()
        assert float(next(made.parameters())) == 4
        assert len(made) == 1


def test_our_batch_norm_is_reached_by_the_names_of_torchs():
    module = nn.Sequential(build_norm_layer({"type": "BN"}, 4)[1], nn.BatchNorm1d(4))
    for layer in ("_BatchNorm", "BatchNorm2d"):
        nn.init.zeros_(module[0].weight)
        initialize(module, {"type": "Constant", "val": 2, "layer": layer})
        assert module[0].weight.eq(2).all()


def test_a_checkpoint_that_is_named_but_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="give a path or an http"):
        initialize(nn.Linear(1, 1), {"type": "Pretrained", "checkpoint": "open-mmlab://no_such_net"})


def test_a_pretrained_backbone_is_read_from_the_cache_of_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({"weight": torch.full((1, 1), 3.0)}, tmp_path / "checkpoints" / "regnetx_400mf-a5b10d96.pth")
    layer = nn.Linear(1, 1)
    initialize(layer, {"type": "Pretrained", "checkpoint": "open-mmlab://regnetx_400mf"})
    assert layer.weight.item() == 3
