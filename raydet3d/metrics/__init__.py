"""Metrics: predictions of a data set to named numbers, gathered over ranks and computed once."""

from raydet3d.metrics.kitti import KittiMetric
from raydet3d.metrics.metric import BaseMetric

__all__ = ["BaseMetric", "KittiMetric"]
