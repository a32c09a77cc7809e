"""Cross entropy against numbers worked out by hand."""

import math

import pytest
import torch

from raydet3d.models.losses import CrossEntropyLoss
from raydet3d.models.losses.base import EPS


def test_cross_entropy():
    loss = CrossEntropyLoss(loss_weight=0.2)
    pred = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    wanted = 0.2 * (math.log(4 / 3) + math.log(2)) / (2 + EPS)
    assert loss(pred, torch.tensor([1, 0]), avg_factor=2).item() == pytest.approx(wanted, rel=1e-6)
    sigmoid = CrossEntropyLoss(use_sigmoid=True, reduction="sum")
    assert sigmoid(torch.zeros(1, 2), torch.tensor([2])).item() == pytest.approx(2 * math.log(2))


def test_half_precision_is_computed_in_float32():
    assert CrossEntropyLoss()(torch.ones(4, 2).bfloat16(), torch.zeros(4).long()).dtype == torch.float32
