"""Weights and reduction of functions of element-wise losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydet3d.models.losses.base import weighted_loss


@weighted_loss
def power_loss(pred: Tensor, target: Tensor, exponent: int = 2) -> Tensor:
    return (pred - target).abs() ** exponent


def test_a_function_of_elements_gets_weights_and_reductions() -> None:
    pred, target = torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3)
    assert power_loss(pred, target).item() == 7
    assert power_loss(pred, target, reduction="none", exponent=1).tolist() == [1, 2, 4]
    assert power_loss(pred, target, torch.tensor([1.0, 0, 0]), reduction="sum").item() == 1
    assert power_loss(pred, target, avg_factor=7.0).item() == pytest.approx(3)
    assert power_loss.__name__ == "power_loss"
