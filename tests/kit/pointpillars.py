"""Model configs of PointPillars: the published one for KITTI, and one of its kind that fits a test."""

from __future__ import annotations

import copy
from typing import Any

import torch

from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes


def _assigner(positive: float, negative: float) -> dict[str, Any]:
    return {
        "type": "Max3DIoUAssigner",
        "iou_calculator": {"type": "mmdet3d.BboxOverlapsNearest3D"},
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": negative,
        "ignore_iof_thr": -1,
    }


PUBLISHED: dict[str, Any] = {
    "type": "VoxelNet",
    "data_preprocessor": {
        "type": "Det3DDataPreprocessor",
        "voxel": True,
        "voxel_layer": {
            "max_num_points": 32,
            "point_cloud_range": [0, -39.68, -3, 69.12, 39.68, 1],
            "voxel_size": [0.16, 0.16, 4],
            "max_voxels": (16000, 40000),
        },
    },
    "voxel_encoder": {
        "type": "PillarFeatureNet",
        "in_channels": 4,
        "feat_channels": [64],
        "with_distance": False,
        "voxel_size": [0.16, 0.16, 4],
        "point_cloud_range": [0, -39.68, -3, 69.12, 39.68, 1],
    },
    "middle_encoder": {"type": "PointPillarsScatter", "in_channels": 64, "output_shape": [496, 432]},
    "backbone": {
        "type": "SECOND",
        "in_channels": 64,
        "layer_nums": [3, 5, 5],
        "layer_strides": [2, 2, 2],
        "out_channels": [64, 128, 256],
    },
    "neck": {
        "type": "SECONDFPN",
        "in_channels": [64, 128, 256],
        "upsample_strides": [1, 2, 4],
        "out_channels": [128, 128, 128],
    },
    "bbox_head": {
        "type": "Anchor3DHead",
        "num_classes": 3,
        "in_channels": 384,
        "feat_channels": 384,
        "use_direction_classifier": True,
        "assign_per_class": True,
        "anchor_generator": {
            "type": "AlignedAnchor3DRangeGenerator",
            "ranges": [
                [0, -39.68, -0.6, 69.12, 39.68, -0.6],
                [0, -39.68, -0.6, 69.12, 39.68, -0.6],
                [0, -39.68, -1.78, 69.12, 39.68, -1.78],
            ],
            "sizes": [[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]],
            "rotations": [0, 1.57],
            "reshape_out": False,
        },
        "diff_rad_by_sin": True,
        "bbox_coder": {"type": "DeltaXYZWLHRBBoxCoder"},
        "loss_cls": {
            "type": "mmdet.FocalLoss",
            "use_sigmoid": True,
            "gamma": 2.0,
            "alpha": 0.25,
            "loss_weight": 1.0,
        },
        "loss_bbox": {"type": "mmdet.SmoothL1Loss", "beta": 1.0 / 9.0, "loss_weight": 2.0},
        "loss_dir": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.2},
    },
    "train_cfg": {
        "assigner": [_assigner(0.5, 0.35), _assigner(0.5, 0.35), _assigner(0.6, 0.45)],
        "allowed_border": 0,
        "pos_weight": -1,
        "debug": False,
    },
    "test_cfg": {
        "use_rotate_nms": True,
        "nms_across_levels": False,
        "nms_thr": 0.01,
        "score_thr": 0.1,
        "min_bbox_size": 0,
        "nms_pre": 100,
        "max_num": 50,
    },
}


def published() -> dict[str, Any]:
    """The model of `pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class`."""
    return copy.deepcopy(PUBLISHED)


def reduced(cells: int = 128, voxel: float = 0.32, channels: int = 32) -> dict[str, Any]:
    """The same on a square of `cells` x `cells`, with a map as fine as the grid; 138,120 parameters by default."""
    cfg = published()
    half = cells * voxel / 2
    span = [0, -half, -3, 2 * half, half, 1]
    cfg["data_preprocessor"]["voxel_layer"].update(point_cloud_range=span, voxel_size=[voxel, voxel, 4])
    cfg["voxel_encoder"].update(feat_channels=[channels], voxel_size=[voxel, voxel, 4], point_cloud_range=span)
    cfg["middle_encoder"].update(in_channels=channels, output_shape=[cells, cells])
    stages = [channels, channels, 2 * channels]
    cfg["backbone"].update(in_channels=channels, layer_nums=[1, 1, 1], layer_strides=[1, 2, 2], out_channels=stages)
    cfg["neck"].update(in_channels=stages, out_channels=[channels] * 3)
    cfg["bbox_head"].update(in_channels=3 * channels, feat_channels=3 * channels)
    for row in cfg["bbox_head"]["anchor_generator"]["ranges"]:
        row[0], row[1], row[3], row[4] = 0, -half, 2 * half, half
    return cfg


def a_sample(boxes: Any, labels: Any) -> Det3DDataSample:
    """A frame's ground truth: rows of 7 numbers, and classes."""
    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 7)),
        labels_3d=torch.as_tensor(labels, dtype=torch.long).reshape(-1),
    )
    return sample


def a_frame(
    generator: torch.Generator, *, half: float = 20.48, objects: int = 8, background: int = 4000
) -> tuple[torch.Tensor, Det3DDataSample]:
    """A made-up frame: points (N, 4) on a ground and on the sides of a few objects, and what those are."""
    sizes = torch.tensor([[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]])

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    labels = torch.randint(0, 3, (objects,), generator=generator)
    boxes = torch.empty(objects, 7)
    boxes[:, 0] = uniform(objects) * half * 1.8 + 0.1 * half
    boxes[:, 1] = (uniform(objects) - 0.5) * half * 1.8
    boxes[:, 2] = -1.7
    boxes[:, 3:6] = sizes[labels] * (0.9 + 0.2 * uniform(objects, 3))
    boxes[:, 6] = (uniform(objects) - 0.5) * 6.28
    around = torch.cat((uniform(objects, 120, 2) - 0.5, uniform(objects, 120, 1)), dim=2)
    side = torch.randint(0, 2, (objects, 120, 1), generator=generator)
    around.scatter_(2, side, torch.where(uniform(objects, 120, 1) < 0.5, -0.5, 0.5))
    around = around * boxes[:, None, 3:6]
    cos, sin = boxes[:, None, 6].cos(), boxes[:, None, 6].sin()
    points = torch.stack(
        (around[..., 0] * cos - around[..., 1] * sin, around[..., 0] * sin + around[..., 1] * cos, around[..., 2]), -1
    )
    points = (points + boxes[:, None, :3]).flatten(0, 1)
    # As a scanner sees it, from 1.73 m above the ground: rings that lie closer together the nearer they are.
    ring = torch.randint(0, 40, (background,), generator=generator)
    away = 1.73 / torch.deg2rad(2.5 + 22 * ring / 39).tan()
    azimuth = (uniform(background) - 0.5) * 1.57
    ground = torch.stack((away * azimuth.cos(), away * azimuth.sin(), uniform(background) * 0.05 - 1.75), 1)
    points = torch.cat((points, ground))
    points = torch.cat((points, uniform(len(points), 1)), dim=1)
    return points[torch.randperm(len(points), generator=generator)], a_sample(boxes, labels)
