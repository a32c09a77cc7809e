"""CenterPoint as people train it on nuScenes, in toy size: CBGS, sweeps, pasted objects, DCN heads, TTA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raydet3d.config import Config
from raydet3d.data.prepare import prepare_nuscenes
from tests.kit.lidar import center_point
from tests.kit.tiny_nuscenes import VERSION, write_nuscenes
from tests.kit.toy import with_changes

CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian", "traffic_cone", "barrier"]
TASKS = [
    {"num_class": 4, "class_names": CLASSES[:4]},
    {"num_class": 3, "class_names": CLASSES[4:]},
]
RANGE = [-38.4, -38.4, -5.0, 38.4, 38.4, 3.0]
VOXEL = [1.2, 1.2, 8]
LOAD = [
    {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
    {"type": "LoadPointsFromMultiSweeps", "sweeps_num": 2, "use_dim": [0, 1, 2, 3, 4], "remove_close": True},
]


def write_data(root: Path) -> Path:
    """Write and prepare two short scenes."""
    write_nuscenes(root)
    prepare_nuscenes(root, version=VERSION)
    return root


def model() -> dict[str, Any]:
    """CenterPoint on 64 x 64 pillars with deformable heads."""
    cfg = center_point("pillar02", velocity=True, dcn=True)
    layer = {"point_cloud_range": RANGE, "voxel_size": VOXEL}
    cfg["data_preprocessor"]["voxel_layer"].update(layer)
    cfg["pts_voxel_encoder"].update(in_channels=5, **layer)
    head = cfg["pts_bbox_head"]
    head["tasks"] = TASKS
    limits = [-60.0, -60.0, -10.0, 60.0, 60.0, 10.0]
    head["bbox_coder"].update(pc_range=RANGE[:2], voxel_size=VOXEL[:2], post_center_range=limits, score_threshold=0.0)
    cfg["train_cfg"]["pts"].update(layer)
    cfg["test_cfg"]["pts"].update(
        pc_range=RANGE[:2], voxel_size=VOXEL[:2], post_center_limit_range=limits, score_threshold=0.0,
        min_radius=[4, 0.5], post_max_size=20, nms_type="circle",
    )  # fmt: skip
    return cfg


def _dataset(root: Path, split: str, pipeline: list[dict[str, Any]], *, test_mode: bool) -> dict[str, Any]:
    return {
        "type": "NuScenesDataset",
        "data_root": f"{root}/",
        "ann_file": f"nuscenes_infos_{split}.pkl",
        "pipeline": pipeline,
        "metainfo": {"classes": CLASSES},
        "data_prefix": {"pts": "samples/LIDAR_TOP", "img": "", "sweeps": "sweeps/LIDAR_TOP"},
        "test_mode": test_mode,
        "use_valid_flag": True,
    }


def tiny_centerpoint(root: Path, work_dir: Path | str, **changes: Any) -> Config:
    """The config of a run of two epochs.

    Args:
        root: Folder that `write_data` wrote.
        work_dir: The run's folder.
        **changes: Values to replace, with `__` for the dot in the key.
    """
    sampler = {
        "data_root": f"{root}/",
        "info_path": f"{root}/nuscenes_dbinfos_train.pkl",
        "rate": 1.0,
        "prepare": {"filter_by_difficulty": [-1], "filter_by_min_points": dict.fromkeys(CLASSES, 4)},
        "classes": CLASSES,
        "sample_groups": {"truck": 3, "bicycle": 4, "traffic_cone": 4},
        "points_loader": {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
    }
    train = [
        *LOAD,
        {"type": "LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True},
        {"type": "ObjectSample", "db_sampler": sampler},
        {"type": "GlobalRotScaleTrans", "rot_range": [-0.4, 0.4], "scale_ratio_range": [0.95, 1.05]},
        {"type": "RandomFlip3D", "sync_2d": False, "flip_ratio_bev_horizontal": 0.5, "flip_ratio_bev_vertical": 0.5},
        {"type": "PointsRangeFilter", "point_cloud_range": RANGE},
        {"type": "ObjectRangeFilter", "point_cloud_range": RANGE},
        {"type": "ObjectNameFilter", "classes": CLASSES},
        {"type": "PointShuffle"},
        {"type": "Pack3DDetInputs", "keys": ["points", "gt_bboxes_3d", "gt_labels_3d"]},
    ]
    view = [
        {"type": "GlobalRotScaleTrans", "rot_range": [0, 0], "scale_ratio_range": [1.0, 1.0]},
        {"type": "RandomFlip3D", "sync_2d": False},
        {"type": "PointsRangeFilter", "point_cloud_range": RANGE},
    ]
    flips = {"flip": True, "pcd_horizontal_flip": True, "pcd_vertical_flip": True}
    scoring = {
        "batch_size": 1,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": _dataset(
            root,
            "val",
            [*LOAD, {"type": "PointsRangeFilter", "point_cloud_range": RANGE},
             {"type": "Pack3DDetInputs", "keys": ["points"]}],
            test_mode=True,
        ),
    }  # fmt: skip
    metric = {"type": "NuScenesMetric", "data_root": str(root), "ann_file": f"{root}/nuscenes_infos_val.pkl"}
    cfg = Config(
        {
            "work_dir": str(work_dir),
            "model": model(),
            "train_dataloader": {
                "batch_size": 2,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "dataset": {"type": "CBGSDataset", "dataset": _dataset(root, "train", train, test_mode=False)},
            },
            "val_dataloader": scoring,
            "test_dataloader": scoring,
            "val_evaluator": metric,
            "test_evaluator": metric,
            "tta_model": {"type": "CenterPointTTAModel"},
            "tta_pipeline": [
                *LOAD,
                {
                    "type": "MultiScaleFlipAug3D", "img_scale": (1333, 800), "pts_scale_ratio": [0.95, 1.05],
                    **flips, "transforms": view,
                },
                {"type": "Pack3DDetInputs", "keys": ["points"]},
            ],
            "train_cfg": {"by_epoch": True, "max_epochs": 2, "val_interval": 2},
            "val_cfg": {},
            "test_cfg": {},
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "AdamW", "lr": 0.002, "weight_decay": 0.01},
                "clip_grad": {"max_norm": 35, "norm_type": 2},
            },
            "param_scheduler": [
                {"type": "CosineAnnealingLR", "T_max": 2, "end": 2, "by_epoch": True, "convert_to_iter_based": True}
            ],
            "default_hooks": {
                "logger": {"type": "LoggerHook", "interval": 2},
                "checkpoint": {"type": "CheckpointHook", "interval": 1},
            },
            "visualizer": {"type": "Visualizer", "vis_backends": []},
            "randomness": {"seed": 5},
        }
    )  # fmt: skip
    return with_changes(cfg, **changes)
