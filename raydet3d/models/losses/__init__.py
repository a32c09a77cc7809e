"""Losses of the detection heads."""

from raydet3d.models.losses.base import WeightedLoss
from raydet3d.models.losses.cross_entropy_loss import CrossEntropyLoss
from raydet3d.models.losses.focal_loss import FocalLoss
from raydet3d.models.losses.gaussian_focal_loss import GaussianFocalLoss
from raydet3d.models.losses.smooth_l1_loss import L1Loss, SmoothL1Loss

__all__ = ["CrossEntropyLoss", "FocalLoss", "GaussianFocalLoss", "L1Loss", "SmoothL1Loss", "WeightedLoss"]
