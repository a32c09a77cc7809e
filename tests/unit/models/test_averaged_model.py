"""Averages of weights against sums worked out by hand; MMEngine's numbers are in tests/parity/test_hooks.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from raydet3d.registry import MODELS


class One(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("seen", torch.tensor([value]))

    def put(self, value: float) -> One:
        with torch.no_grad():
            self.weight.fill_(value)
            self.seen.fill_(value)  # type: ignore[operator]
        return self


def feed(averaged: Any, values: list[float]) -> Any:
    model = One()
    for value in values:
        averaged.update_parameters(model.put(value))
    return averaged


def test_mean() -> None:
    averaged = feed(StochasticWeightAverage(One()), [1, 2, 6])
    assert averaged.module.weight.item() == pytest.approx(3)
    assert averaged.module.seen.item() == 6  # copied
    assert averaged.steps.item() == 3
    assert feed(StochasticWeightAverage(One(), update_buffers=True), [1, 2, 6]).module.seen.item() == pytest.approx(3)


def test_moving() -> None:
    assert feed(ExponentialMovingAverage(One(), momentum=0.25), [4, 8]).module.weight.item() == pytest.approx(5)
    # An interval of 2 takes the first, the third, the fifth.
    assert feed(ExponentialMovingAverage(One(), momentum=0.25, interval=2), [4, 99, 8]).module.weight.item() == 5


def test_annealed() -> None:
    # Momenta 3/(3+1) and 3/(3+2).
    averaged = feed(MomentumAnnealingEMA(One(), momentum=0.1, gamma=3), [0, 4, 8])
    assert averaged.module.weight.item() == pytest.approx(3 + 0.6 * (8 - 3))
    assert averaged.momentum_at(10**6) == 0.1


def test_state_is_restored_with_its_count() -> None:
    first = feed(StochasticWeightAverage(One()), [1, 2])
    assert set(first.state_dict()) == {"steps", "module.weight", "module.seen"}
    second = StochasticWeightAverage(One())
    second.load_state_dict(first.state_dict())
    assert feed(second, [6]).module.weight.item() == pytest.approx(3)


def test_a_user_defined_average_overrides_avg_func() -> None:
    class Most(BaseAveragedModel):
        def avg_func(self, averaged_param: torch.Tensor, source_param: torch.Tensor, steps: int) -> None:
            torch.maximum(averaged_param, source_param, out=averaged_param)

    assert feed(Most(One()), [2, 5, 3]).module.weight.item() == 5
    with pytest.raises(NotImplementedError, match="must define avg_func"):
        feed(BaseAveragedModel(One()), [1, 2])


def test_the_average_is_a_frozen_copy_that_can_be_swapped() -> None:
    model = One(3.0)
    averaged = ExponentialMovingAverage(model)
    assert not any(parameter.requires_grad for parameter in averaged.module.parameters())
    model.put(5)
    assert averaged.module.weight.item() == 3
    averaged.swap_with(model)
    assert (averaged.module.weight.item(), model.weight.item()) == (5, 3)
    assert (averaged.module.seen.item(), model.seen.item()) == (3, 5)  # type: ignore[operator]
    averaged.copy_from(model)
    assert (averaged.module.weight.item(), averaged.module.seen.item()) == (3, 5)
    assert averaged.steps.item() == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"type": "ExponentialMovingAverage", "momentum": 1.5}, "momentum must lie between 0 and 1, got 1.5"),
        ({"type": "ExponentialMovingAverage", "interval": 0}, "interval must be an integer of at least 1, got 0"),
        ({"type": "MomentumAnnealingEMA", "gamma": 0}, "gamma must be above 0, got 0"),
        ({"type": "StochasticWeightAverage", "momentum": 0.1}, "has no argument 'momentum'"),
    ],
)
def test_bad_arguments(args: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MODELS.build(args, {"model": One()})
