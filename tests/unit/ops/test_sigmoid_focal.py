"""Focal loss kernels: the sum over a large map against the element-wise form, and finite differences."""

import math

import pytest
import torch

from raydet3d.ops import sigmoid_focal_loss, sigmoid_focal_sum


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.4), (0.0, 0.5)])
def test_sum_equals_the_elementwise_form(gamma, alpha):
    torch.manual_seed(0)
    logits = (torch.randn(60, dtype=torch.float64) * 3).requires_grad_()
    positive, ignored = torch.tensor([2, 9, 40]), torch.tensor([4, 5])
    target = torch.zeros(60, dtype=torch.float64).index_fill(0, positive, 1)
    keep = torch.ones(60, dtype=torch.float64).index_fill(0, ignored, 0)
    expected = (sigmoid_focal_loss(logits, target, gamma=gamma, alpha=alpha) * keep).sum()
    total = sigmoid_focal_sum(logits, positive, ignored, gamma=gamma, alpha=alpha)
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    (ours,), (theirs,) = torch.autograd.grad(total, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_gradient_equals_finite_differences():
    torch.manual_seed(1)
    logits = torch.randn(12, dtype=torch.float64, requires_grad=True)
    positive, ignored = torch.tensor([2, 9]), torch.tensor([4])
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_sum(x, positive, ignored, gamma=2.0, alpha=0.25), [logits])


def test_extreme_logits_and_no_positives():
    logits = torch.tensor([-200.0, 200.0, -90.0, 90.0, 0.0], requires_grad=True)
    none = torch.empty(0, dtype=torch.long)
    total = sigmoid_focal_sum(logits, torch.tensor([2, 3]), none)
    total.backward()
    # A missed object at -90 costs 0.25 * 90, sure background at 200 costs 0.75 * 200.
    assert total.item() == pytest.approx(0.25 * 90 + 0.75 * 200 + 0.1875 * math.log(2), rel=1e-5)
    assert torch.isfinite(logits.grad).all()
    assert sigmoid_focal_sum(torch.zeros(4), none, none).item() == pytest.approx(4 * 0.1875 * math.log(2))


def test_sum_over_a_large_map_is_that_of_float64():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2_000_000, generator=generator) - 4.6
    none = torch.empty(0, dtype=torch.long)
    assert sigmoid_focal_sum(logits, none, none).item() == pytest.approx(
        sigmoid_focal_sum(logits.double(), none, none).item(), rel=1e-6
    )
