"""Geometry, voxelization and numerical kernels: functions from tensors to tensors, without modules or configs."""

from raydet3d.ops.anchor_grid import AnchorGrid
from raydet3d.ops.batch_norm import batch_norm_channels_last, moments_channels_last
from raydet3d.ops.deform_conv import deform_conv2d
from raydet3d.ops.heatmap import draw_gaussians, draw_heatmap_gaussian, gaussian_radius
from raydet3d.ops.iou import (
    aligned_iou,
    nearest_bev,
    rotated_intersection_bev,
    rotated_iou_3d,
    rotated_iou_bev,
)
from raydet3d.ops.nms import multiclass_nms, nms_aligned, nms_circle, nms_rotated
from raydet3d.ops.pillar_max import pillar_max
from raydet3d.ops.points import bev_corners, box_corners, limit_period, points_in_boxes, rotate_z, xywhr2xyxyr
from raydet3d.ops.pointwise_conv import map_to_rows, pointwise_conv, pointwise_conv_and_gather
from raydet3d.ops.precision import cast_to_autocast, upcast_half
from raydet3d.ops.sigmoid_focal import clip_sigmoid, sigmoid_focal_loss, sigmoid_focal_sum
from raydet3d.ops.voxelize import grid_size, voxelize_dynamic, voxelize_hard

__all__ = [
    "AnchorGrid",
    "aligned_iou",
    "batch_norm_channels_last",
    "bev_corners",
    "box_corners",
    "cast_to_autocast",
    "clip_sigmoid",
    "deform_conv2d",
    "draw_gaussians",
    "draw_heatmap_gaussian",
    "gaussian_radius",
    "grid_size",
    "limit_period",
    "map_to_rows",
    "moments_channels_last",
    "multiclass_nms",
    "nearest_bev",
    "nms_aligned",
    "nms_circle",
    "nms_rotated",
    "pillar_max",
    "points_in_boxes",
    "pointwise_conv",
    "pointwise_conv_and_gather",
    "rotate_z",
    "rotated_intersection_bev",
    "rotated_iou_3d",
    "rotated_iou_bev",
    "sigmoid_focal_loss",
    "sigmoid_focal_sum",
    "upcast_half",
    "voxelize_dynamic",
    "voxelize_hard",
    "xywhr2xyxyr",
]
