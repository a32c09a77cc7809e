"""Geometry and grouping: tensors in, tensors out; no modules, no configs."""

from raydet3d.ops.iou import (
    aligned_iou,
    nearest_bev,
    rotated_intersection_bev,
    rotated_iou_3d,
    rotated_iou_bev,
)
from raydet3d.ops.nms import nms_aligned, nms_circle, nms_rotated
from raydet3d.ops.points import bev_corners, box_corners, limit_period, points_in_boxes, rotate_z
from raydet3d.ops.voxelize import grid_size, voxelize_dynamic, voxelize_hard

__all__ = [
    "aligned_iou",
    "bev_corners",
    "box_corners",
    "grid_size",
    "limit_period",
    "nearest_bev",
    "nms_aligned",
    "nms_circle",
    "nms_rotated",
    "points_in_boxes",
    "rotate_z",
    "rotated_intersection_bev",
    "rotated_iou_3d",
    "rotated_iou_bev",
    "voxelize_dynamic",
    "voxelize_hard",
]
