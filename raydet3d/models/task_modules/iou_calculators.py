"""IoU calculators of the assigners."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.ops import aligned_iou, nearest_bev
from raydet3d.registry import TASK_UTILS


class IoUCalculator(Protocol):
    """Overlap of every box with every other."""

    def __call__(self, bboxes1: Tensor, bboxes2: Tensor, /) -> Tensor:
        """Compute the (N, M) overlaps of (N, 7+) and (M, 7+) boxes."""


@TASK_UTILS.register_module()
class BboxOverlapsNearest3D:
    """Bird's-eye-view IoU of boxes that are rotated to the nearest axis.

    Args:
        coordinate: Frame of the boxes: "lidar" or "depth" (z up).
    """

    def __init__(self, coordinate: str = "lidar") -> None:
        if coordinate not in ("lidar", "depth"):
            raise InputError(f"BboxOverlapsNearest3D: coordinate must be 'lidar' or 'depth', got {coordinate!r}")
        self.coordinate = coordinate

    def __call__(self, bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou") -> Tensor:
        """Compute the (N, M) overlaps of (N, 7+) and (M, 7+) boxes; mode "iou" or "iof"."""
        return aligned_iou(nearest_bev(bboxes1), nearest_bev(bboxes2), mode=mode)
