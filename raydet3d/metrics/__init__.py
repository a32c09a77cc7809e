"""Metrics: named scores of a data set's predictions, gathered over ranks and computed once."""

from raydet3d.metrics.base import BaseMetric
from raydet3d.metrics.box_ap import Box3DAPMetric, CenterDistanceAPMetric
from raydet3d.metrics.kitti import KittiMetric
from raydet3d.metrics.nuscenes import NuScenesMetric
from raydet3d.metrics.prediction_file import PredictionFile

__all__ = [
    "BaseMetric",
    "Box3DAPMetric",
    "CenterDistanceAPMetric",
    "KittiMetric",
    "NuScenesMetric",
    "PredictionFile",
]
