"""Weights by name and shape, and one line about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raydet3d.checkpoint.load_weights import load_checkpoint, load_weights, rename_weights
from raydet3d.errors import InputError


def test_fitting_weights_are_loaded_and_others_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = {
        "0.weight": torch.ones(3, 2),
        "0.bias": torch.ones(4),
        "1.weight": torch.ones(1, 3),
        "2.x": torch.ones(1),
    }
    line = load_weights(model, weights, strict=False, title="w.pth")
    assert line == (
        "loaded 2 of 4 tensors of the model from w.pth; 1 missing: 1.bias; 1 not in the model: 2.x; "
        "1 of another shape: 0.bias (4,) for (3,)"
    )
    assert model[0].weight.sum() == 6
    with pytest.raises(InputError, match=r"w.pth does not fit the model: 1 missing"):
        load_weights(model, weights, strict=True, title="w.pth")
    assert (
        load_weights(model, model.state_dict(), strict=True, title="x") == "loaded 4 of 4 tensors of the model from x"
    )


def test_weights_of_another_model_are_refused_with_shortened_lists() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"does not fit the model at all: it has a0, .* and 12 more, the model weight"):
        load_weights(model, {f"a{i}": torch.ones(1) for i in range(20)}, strict=False, title="w.pth")


def test_revise_keys_rename_weights() -> None:
    assert set(rename_weights({"module.a": 1, "b.module.c": 2}, [(r"^module\.", ""), ("c$", "d")])) == {
        "a",
        "b.module.d",
    }


def test_load_checkpoint_outside_of_a_run(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    torch.save({"state_dict": {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}}, tmp_path / "w.pth")
    assert "state_dict" in load_checkpoint(model, str(tmp_path / "w.pth"), "cpu")
    assert model(torch.ones(1, 2)).item() == 2
    torch.save({"state_dict": {"weight": torch.ones(1, 2)}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="bias"):
        load_checkpoint(model, tmp_path / "w.pth", strict=True)


class Versioned(nn.Module):
    """Was called `old` in its first version, and has another layer of that name now."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.old = nn.Linear(1, 1)
        self.new = nn.Linear(1, 1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        if local_metadata.get("version", 1) < 2:
            for name in ("weight", "bias"):
                state_dict[f"{prefix}new.{name}"] = state_dict.pop(f"{prefix}old.{name}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def test_modules_convert_weights_of_their_older_versions_only(tmp_path: Path) -> None:
    model, copy = nn.Sequential(Versioned()), nn.Sequential(Versioned())
    torch.save({"state_dict": model.state_dict(prefix="module.")}, tmp_path / "w.pth")
    load_checkpoint(copy, tmp_path / "w.pth", strict=True)
    assert torch.equal(copy[0].old.weight, model[0].old.weight)
    assert torch.equal(copy[0].new.weight, model[0].new.weight)
    first_version = {"0.old.weight": torch.full((1, 1), 5.0), "0.old.bias": torch.zeros(1)}
    load_weights(copy, first_version, strict=False, title="w.pth")
    assert copy[0].new.weight.item() == 5
    assert torch.equal(copy[0].old.weight, model[0].old.weight)
