"""Smooth L1 and L1 losses against numbers worked out by hand."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.models.losses import L1Loss, SmoothL1Loss
from raydet3d.models.losses.base import EPS
from raydet3d.registry import MODELS


def test_smooth_l1():
    """Below beta 0.5 d^2 / beta, above it d - beta / 2; weighted, and divided by the factor."""
    loss = SmoothL1Loss(beta=1 / 9, loss_weight=2.0)
    pred, target = torch.tensor([[0.05, 1.0], [0.0, -2.0]]), torch.zeros(2, 2)
    wanted = 2 * ((0.5 * 0.05**2 * 9 + (1 - 1 / 18)) * 1 + (2 - 1 / 18) * 0.5) / (3 + EPS)
    weight = torch.tensor([1.0, 0.5])
    assert loss(pred, target, weight, avg_factor=3).item() == pytest.approx(wanted, rel=1e-6)


def test_l1_and_reductions():
    pred = torch.tensor([[1.0, -2.0]])
    assert L1Loss(reduction="sum", loss_weight=0.25)(pred, torch.zeros(1, 2)).item() == pytest.approx(0.75)
    assert L1Loss()(pred, torch.zeros(1, 2)).item() == pytest.approx(1.5)
    assert L1Loss(reduction="none")(pred, torch.zeros(1, 2)).tolist() == [[1.0, 2.0]]


def test_reduction_override():
    pred, target = torch.tensor([[1.0, -2.0]]), torch.zeros(1, 2)
    assert L1Loss()(pred, target, reduction_override="sum").item() == pytest.approx(3)
    with pytest.raises(InputError, match="reduction"):
        L1Loss()(pred, target, reduction_override="avg")


def test_empty_input_gives_zero_and_a_gradient():
    pred = torch.zeros(0, 7, requires_grad=True)
    loss = SmoothL1Loss()(pred, torch.zeros(0, 7), avg_factor=torch.tensor(2))
    loss.backward()
    assert loss.item() == 0
    assert pred.grad is not None


def test_half_precision_is_computed_in_float32():
    assert SmoothL1Loss()(torch.ones(4, 2).bfloat16(), torch.zeros(4, 2)).dtype == torch.float32


def test_unknown_reduction_is_refused():
    with pytest.raises(InputError, match="reduction"):
        MODELS.build({"type": "L1Loss", "reduction": "avg"})
