"""Focal loss against its formula, element by element, and gradients against finite differences."""

import math

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.models.losses import FocalLoss
from raydet3d.models.losses.base import EPS
from raydet3d.registry import MODELS


def naive_focal(x: float, target: int, gamma: float = 2.0, alpha: float = 0.25) -> float:
    p = 1 / (1 + math.exp(-x))
    p_t, a_t = (p, alpha) if target else (1 - p, 1 - alpha)
    return -a_t * (1 - p_t) ** gamma * math.log(p_t)


def test_values_by_hand():
    """At p = 0.5: 0.25 * 0.25 * ln 2 for a positive, 0.75 * 0.25 * ln 2 for background."""
    loss = FocalLoss(reduction="sum")
    assert loss(torch.zeros(1, 1), torch.tensor([0])).item() == pytest.approx(0.0625 * math.log(2))
    assert loss(torch.zeros(1, 1), torch.tensor([1])).item() == pytest.approx(0.1875 * math.log(2))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.4), (0.0, 0.5)])
def test_dense_and_sparse_forward_equal_the_formula(gamma, alpha):
    torch.manual_seed(0)
    logits = (torch.randn(40, 3, dtype=torch.float64) * 3).requires_grad_()
    target = torch.full((40,), 3)
    target[[3, 7, 20]] = torch.tensor([0, 2, 1])
    ignored = torch.tensor([5, 6])
    weight = torch.ones(40, dtype=torch.float64)
    weight[ignored] = 0
    wanted = sum(
        naive_focal(logits[i, c].item(), int(target[i]) == c, gamma, alpha)
        for i in range(40)
        if weight[i]
        for c in range(3)
    )
    loss = FocalLoss(gamma=gamma, alpha=alpha, loss_weight=1.5)
    dense = loss(logits, target, weight, avg_factor=4)
    assert dense.item() == pytest.approx(1.5 * wanted / (4 + EPS), rel=1e-12)

    flat_positive = torch.tensor([3 * 3 + 0, 7 * 3 + 2, 20 * 3 + 1])
    flat_ignored = (ignored[:, None] * 3 + torch.arange(3)).flatten()
    sparse = loss.sparse_forward(logits.flatten(), flat_positive, flat_ignored, avg_factor=4)
    assert sparse.item() == pytest.approx(dense.item(), rel=1e-12)
    (by_dense,) = torch.autograd.grad(dense, logits)
    (by_sparse,) = torch.autograd.grad(sparse, logits)
    torch.testing.assert_close(by_sparse, by_dense, rtol=1e-10, atol=1e-14)


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    logits = torch.randn(1000).bfloat16()
    none = torch.empty(0, dtype=torch.long)
    loss = FocalLoss().sparse_forward(logits, none, none, 1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(FocalLoss().sparse_forward(logits.double(), none, none, 1).item(), rel=1e-5)


@pytest.mark.parametrize("cfg", [{"type": "FocalLoss", "use_sigmoid": False}, {"type": "FocalLoss", "alfa": 1}])
def test_unsupported_arguments_are_refused(cfg):
    with pytest.raises(InputError):
        MODELS.build(cfg)
