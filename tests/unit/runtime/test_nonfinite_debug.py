"""Trying a batch again: what is named, and that nothing is changed by it. More in tests/unit/hooks/test_guard.py."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from raydet3d.runtime.nonfinite_debug import diagnose_nonfinite
from raydet3d.structures import LiDARInstance3DBoxes

CPU = torch.device("cpu")
WRAPPER: Any = SimpleNamespace(optim_context=lambda model: nullcontext())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
        self.head = nn.Linear(4, 1)

    def train_step(self, data: Any, optim_wrapper: Any) -> None:
        with optim_wrapper.optim_context(self):
            loss = self.head(self.body(data["inputs"])).mean()
        optim_wrapper.update_params(loss)


def batch() -> dict[str, Any]:
    return {"inputs": torch.ones(4, 3) * torch.arange(4)[:, None], "boxes": [LiDARInstance3DBoxes(torch.zeros(1, 7))]}


def test_nothing_is_changed() -> None:
    model = Net()
    model.head.weight.grad = torch.full((1, 4), 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert (
        diagnose_nonfinite(model, WRAPPER, batch(), CPU)
        == "tried again, the batch gives a finite loss and finite gradients"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.head.weight.grad == 7).all()
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_inputs_and_modules_in_this_order() -> None:
    model, data = Net(), batch()
    data["boxes"][0].tensor[0, 3] = float("nan")
    assert diagnose_nonfinite(model, WRAPPER, data, CPU) == "the batch itself is not finite: boxes[0].tensor"
    model.body[0].register_forward_hook(lambda module, given, out: out / 0)
    assert diagnose_nonfinite(model, WRAPPER, batch(), CPU).endswith("that of body.0 (Linear)")
    with torch.no_grad():
        model.head.bias.fill_(float("inf"))
    assert diagnose_nonfinite(model, WRAPPER, data, CPU) == "the weights of head.bias are not finite"


@pytest.mark.parametrize("kind", [RuntimeError, AttributeError])
def test_a_step_that_cannot_be_replayed_is_reported(kind: type[Exception]) -> None:
    class Own(Net):
        def train_step(self, data: Any, optim_wrapper: Any) -> None:
            self.body(data["inputs"])
            raise kind("once only")

    model = Own()
    before = model.body[1].running_mean.clone()
    assert (
        diagnose_nonfinite(model, WRAPPER, batch(), CPU)
        == f"the batch could not be tried again ({kind.__name__}: once only)"
    )
    assert torch.equal(model.body[1].running_mean, before)
