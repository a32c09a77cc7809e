"""Activation checkpointing and compiling: the same numbers as without, and names that do not exist are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.runtime import assemble
from raydet3d.runtime.activation_checkpoint import checkpoint_activations
from tests.kit.toy import ToyModel, toy_cfg

NO_VAL = {f"val_{part}": None for part in ("dataloader", "cfg", "evaluator")}


def block() -> nn.Sequential:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(part, nn.Linear(8, 1))


def test_gradients_statistics_and_dropout_are_the_same() -> None:
    plain, saving = block(), block()
    checkpoint_activations(saving, ["0"])
    x, calls = torch.randn(6, 4), []
    saving[0][0].register_forward_hook(lambda *_: calls.append(1))
    for model in (plain, saving):
        torch.manual_seed(1)
        model(x).sum().backward()
    assert len(calls) == 2  # forward, and again for the backward pass
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name  # BatchNorm has counted the batch once
    assert list(saving.state_dict()) == list(plain.state_dict())
    assert isinstance(saving[0], nn.Sequential)


def test_a_copy_computes_with_its_own_weights_and_evaluation_computes_once() -> None:
    model = block().eval()
    checkpoint_activations(model, ["0"])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0][0].weight.zero_()
        assert not torch.equal(twin(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model has no part 'frist'; did you mean 'first"):
        assemble(toy_cfg(tmp_path, activation_checkpointing=["frist"], log_level="ERROR")).train()
    with pytest.raises(InputError, match="activation_checkpointing must be a list of names of the model's parts"):
        assemble(toy_cfg(tmp_path, activation_checkpointing="first"))


def weights_after(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    changes = {**NO_VAL, "model": {"type": ToyModel, "norm": True}, "train_cfg": {"max_epochs": 1}, **changes}
    runner = assemble(toy_cfg(folder, log_level="ERROR", **changes))
    runner.train()
    state: dict[str, torch.Tensor] = torch.load(folder / "epoch_1.pth", weights_only=True)["state_dict"]
    return state


def test_whole_runs(tmp_path: Path) -> None:
    plain = weights_after(tmp_path / "plain")
    saving = weights_after(tmp_path / "saving", activation_checkpointing=["first", "norm"])
    compiled = weights_after(tmp_path / "compiled", compile={"backend": "eager"})
    in_part = weights_after(tmp_path / "part", compile={"backend": "eager", "parts": ["first", "bbox_head"]})
    assert list(plain) == list(saving) == list(compiled) == list(in_part)
    for name, value in plain.items():
        assert torch.equal(value, saving[name]), name
        torch.testing.assert_close(value, compiled[name])
        torch.testing.assert_close(value, in_part[name])


def test_compile_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compile has no 'backnd'; did you mean 'backend'"):
        assemble(toy_cfg(tmp_path, compile={"backnd": "eager"}))
    with pytest.raises(InputError, match=r"compile\.parts: the model has no part 'frist'; did you mean 'first'"):
        assemble(toy_cfg(tmp_path, compile={"parts": ["frist"]}, log_level="ERROR")).train()
    with pytest.raises(InputError, match="compile: Invalid backend: 'eagre'"):
        assemble(toy_cfg(tmp_path, compile={"backend": "eagre"}, log_level="ERROR")).train()
