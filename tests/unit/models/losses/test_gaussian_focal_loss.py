"""Gaussian focal loss against numbers worked out by hand."""

import math

import pytest
import torch

from raydet3d.models.losses import GaussianFocalLoss
from raydet3d.models.losses.base import EPS


def test_peaks_and_their_surroundings():
    pred = torch.tensor([0.8, 0.3, 0.1])
    target = torch.tensor([1.0, 0.5, 0.0])
    peak = -math.log(0.8) * 0.2**2
    near = -math.log(0.7) * 0.3**2 * 0.5**4
    far = -math.log(0.9) * 0.1**2
    assert GaussianFocalLoss(reduction="none")(pred, target).tolist() == pytest.approx([peak, near, far], rel=1e-5)
    wanted = 2 * (peak + near + far) / (3 + EPS)
    assert GaussianFocalLoss(loss_weight=2.0)(pred, target, avg_factor=3).item() == pytest.approx(wanted, rel=1e-5)
    weighted = GaussianFocalLoss(reduction="sum", pos_weight=3.0, neg_weight=0.5)(pred, target)
    assert weighted.item() == pytest.approx(3 * peak + 0.5 * (near + far), rel=1e-5)


def test_gradient_is_finite_at_the_limits_that_the_head_clips_to():
    pred = torch.tensor([1e-4, 1 - 1e-4], requires_grad=True)
    GaussianFocalLoss()(pred, torch.tensor([1.0, 0.0]), avg_factor=1).backward()
    assert pred.grad.isfinite().all()
