"""Losses against their formulas, written out element by element, and gradients against finite differences."""

import math

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.models.losses.losses import EPS, CrossEntropyLoss, FocalLoss, L1Loss, SmoothL1Loss, focal_sum
from raydet3d.registry import MODELS


def naive_focal(x: float, target: int, gamma: float = 2.0, alpha: float = 0.25) -> float:
    p = 1 / (1 + math.exp(-x))
    p_t, a_t = (p, alpha) if target else (1 - p, 1 - alpha)
    return -a_t * (1 - p_t) ** gamma * math.log(p_t)


def test_focal_by_hand():
    """At p = 0.5: 0.25 * 0.25 * ln 2 for a positive, 0.75 * 0.25 * ln 2 for background."""
    loss = FocalLoss(reduction="sum")
    assert loss(torch.zeros(1, 1), torch.tensor([0])).item() == pytest.approx(0.0625 * math.log(2))
    assert loss(torch.zeros(1, 1), torch.tensor([1])).item() == pytest.approx(0.1875 * math.log(2))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.4), (0.0, 0.5)])
def test_focal_dense_and_sparse_equal_the_formula(gamma, alpha):
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
    sparse = loss.sparse(logits.flatten(), flat_positive, flat_ignored, avg_factor=4)
    assert sparse.item() == pytest.approx(dense.item(), rel=1e-12)
    (by_dense,) = torch.autograd.grad(dense, logits)
    (by_sparse,) = torch.autograd.grad(sparse, logits)
    torch.testing.assert_close(by_sparse, by_dense, rtol=1e-10, atol=1e-14)


def test_focal_sum_gradient_by_finite_differences():
    torch.manual_seed(1)
    logits = torch.randn(12, dtype=torch.float64, requires_grad=True)
    positive, ignored = torch.tensor([2, 9]), torch.tensor([4])
    assert torch.autograd.gradcheck(lambda x: focal_sum(x, positive, ignored, gamma=2.0, alpha=0.25), [logits])


def test_focal_sum_at_extreme_logits_and_without_positives():
    logits = torch.tensor([-200.0, 200.0, -90.0, 90.0, 0.0], requires_grad=True)
    none = torch.empty(0, dtype=torch.long)
    total = focal_sum(logits, torch.tensor([2, 3]), none)
    total.backward()
    # A missed object at -90 costs 0.25 * 90, sure background at 200 costs 0.75 * 200.
    assert total.item() == pytest.approx(0.25 * 90 + 0.75 * 200 + 0.1875 * math.log(2), rel=1e-5)
    assert torch.isfinite(logits.grad).all()
    assert focal_sum(torch.zeros(4), none, none).item() == pytest.approx(4 * 0.1875 * math.log(2))


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    logits = torch.randn(1000).bfloat16()
    none = torch.empty(0, dtype=torch.long)
    loss = FocalLoss().sparse(logits, none, none, 1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(focal_sum(logits.double(), none, none).item(), rel=1e-5)
    for other, target in ((SmoothL1Loss(), torch.zeros(4, 2)), (CrossEntropyLoss(), torch.zeros(4).long())):
        assert other(torch.ones(4, 2).bfloat16(), target).dtype == torch.float32


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


def test_cross_entropy():
    loss = CrossEntropyLoss(loss_weight=0.2)
    pred = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    wanted = 0.2 * (math.log(4 / 3) + math.log(2)) / (2 + EPS)
    assert loss(pred, torch.tensor([1, 0]), avg_factor=2).item() == pytest.approx(wanted, rel=1e-6)
    sigmoid = CrossEntropyLoss(use_sigmoid=True, reduction="sum")
    assert sigmoid(torch.zeros(1, 2), torch.tensor([2])).item() == pytest.approx(2 * math.log(2))


def test_nothing_to_learn_from_is_zero_and_reaches_the_prediction():
    pred = torch.zeros(0, 7, requires_grad=True)
    loss = SmoothL1Loss()(pred, torch.zeros(0, 7), avg_factor=torch.tensor(2))
    loss.backward()
    assert loss.item() == 0
    assert pred.grad is not None


@pytest.mark.parametrize(
    "cfg",
    [
        {"type": "FocalLoss", "use_sigmoid": False},
        {"type": "L1Loss", "reduction": "avg"},
        {"type": "FocalLoss", "alfa": 1},
    ],
)
def test_refuses(cfg):
    with pytest.raises(InputError):
        MODELS.build(cfg)
