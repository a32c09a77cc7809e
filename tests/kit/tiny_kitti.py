"""A few small frames in KITTI's raw layout, with objects whose points are counted: for tests on a fresh clone."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

# A camera at the LiDAR's place that looks along its x axis: x_cam = -y, y_cam = -z, z_cam = x.
AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
P2 = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
HEIGHT, WIDTH = 375, 1242
# l, w, h of each class.
SIZES = {"Car": (4.0, 1.6, 1.5), "Pedestrian": (0.8, 0.6, 1.7), "Cyclist": (1.7, 0.6, 1.7), "Van": (5.0, 2.0, 2.2)}


def png(height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A black grey-scale picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def calib() -> str:
    """A calib file's text."""

    def line(name: str, matrix: np.ndarray) -> str:
        return f"{name}: " + " ".join(f"{value:.12e}" for value in matrix.ravel())

    rows = [line(f"P{number}", P2) for number in range(4)]
    rows += [line("R0_rect", np.eye(3)), line("Tr_velo_to_cam", AXES), line("Tr_imu_to_velo", np.eye(4)[:3])]
    return "\n".join(rows) + "\n\n"


def label(name: str, x: float, y: float, *, yaw: float = 0.0, z: float = -1.7, occluded: int = 0) -> str:
    """A label line of an object that stands at LiDAR (x, y, z) and heads along `yaw`."""
    length, width, height = SIZES[name]
    # 60 pixels tall: easy.
    return (
        f"{name} 0.00 {occluded} 0.00 500.00 150.00 560.00 210.00 {height:.2f} {width:.2f} {length:.2f} "
        f"{-y:.4f} {-z:.4f} {x:.4f} {-yaw - np.pi / 2:.6f}"
    )


DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def write_kitti(
    root: Path, *, train: int = 4, val: int = 2, num_points: int = 400, planes: bool = False, test: int = 0
) -> Path:
    """Write frames 0, 1, ...: a car (40 points in it), a pedestrian (12), a cyclist (9) and every second time a van.

    Args:
        root: Folder to make.
        train: Frames of the training split, which come first.
        val: Frames of the validation split.
        num_points: Other points of each frame, all around.
        planes: Write road planes, 1.7 m below the sensor.
        test: Frames of the test split, unlabelled.
    """
    rng = np.random.default_rng(0)
    names = [f"{number:06d}" for number in range(train + val)]
    _write(root / "ImageSets" / "train.txt", "\n".join(names[:train]) + "\n")
    _write(root / "ImageSets" / "val.txt", "\n".join(names[train:]) + "\n")
    _write(root / "ImageSets" / "trainval.txt", "\n".join(names) + "\n")
    for number, name in enumerate(names):
        objects = [
            ("Car", 10.0 + number, -3.0, 0.3),
            ("Pedestrian", 16.0, 4.0 + 1.2 * number, 1.0),
            ("Cyclist", 20.0, 6.0, -2.0),
        ]
        objects += [("Van", 30.0, 0.0, 0.0)] if number % 2 else []
        clouds = [_inside(rng, *thing, count) for thing, count in zip(objects, (40, 12, 9, 30), strict=False)]
        around = rng.uniform((-40, -40, -3), (60, 40, 0), (num_points, 3))
        clear = [np.abs(around[:, :2] - thing[1:3]).max(1) > 4 for thing in objects]
        points = np.concatenate([around[np.all(clear, axis=0)], *clouds])
        cloud = np.column_stack([points, rng.uniform(0, 1, len(points))]).astype(np.float32)
        folder = root / "training"
        _write(folder / "velodyne" / f"{name}.bin", cloud.tobytes())
        lines = [label(kind, x, y, yaw=yaw) for kind, x, y, yaw in objects]
        _write(folder / "label_2" / f"{name}.txt", "\n".join([*lines, DONT_CARE]) + "\n")
        _write(folder / "calib" / f"{name}.txt", calib())
        _write(folder / "image_2" / f"{name}.png", png())
        if planes:
            text = "# Plane\nWidth 4\nHeight 1\n0.000000e+00 -1.000000e+00 0.000000e+00 1.700000e+00\n"
            _write(folder / "planes" / f"{name}.txt", text)
    for number in range(test):
        folder, name = root / "testing", f"{number:06d}"
        _write(folder / "velodyne" / f"{name}.bin", np.zeros((3, 4), np.float32).tobytes())
        _write(folder / "calib" / f"{name}.txt", calib())
        _write(folder / "image_2" / f"{name}.png", png())
    if test:
        _write(root / "ImageSets" / "test.txt", "\n".join(f"{number:06d}" for number in range(test)))
    return root


def _inside(rng: np.random.Generator, name: str, x: float, y: float, yaw: float, count: int) -> np.ndarray:
    """Points inside an object, clear of its faces."""
    local = rng.uniform(-0.45, 0.45, (count, 3)) * SIZES[name]
    cos, sin = np.cos(yaw), np.sin(yaw)
    turned = local[:, :2] @ np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([turned + np.array([x, y]), local[:, 2] - 1.7 + SIZES[name][2] / 2])


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


CLASSES = ["Pedestrian", "Cyclist", "Car"]
RANGE = [0, -39.68, -3, 69.12, 39.68, 1]


def train_pipeline(root: Path, *, noise: bool = True, plane: bool = False) -> list[dict]:
    """All transforms of the published KITTI configs (PointPillars' and SECOND's), fewer objects pasted."""
    sampler = {
        "data_root": f"{root}/",
        "info_path": f"{root}/kitti_dbinfos_train.pkl",
        "rate": 1.0,
        "prepare": {
            "filter_by_difficulty": [-1],
            "filter_by_min_points": {"Car": 5, "Pedestrian": 5, "Cyclist": 5},
        },
        "classes": CLASSES,
        "sample_groups": {"Car": 4, "Pedestrian": 3, "Cyclist": 3},
        "points_loader": {
            "type": "LoadPointsFromFile",
            "coord_type": "LIDAR",
            "load_dim": 4,
            "use_dim": 4,
            "backend_args": None,
        },
        "backend_args": None,
    }
    quiet = {"translation_std": [1.0, 1.0, 0.5], "global_rot_range": [0.0, 0.0], "rot_range": [-0.785, 0.785]}
    return [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 4, "use_dim": 4, "backend_args": None},
        {"type": "LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True},
        {"type": "ObjectSample", "db_sampler": sampler, "use_ground_plane": plane},
        *([{"type": "ObjectNoise", "num_try": 100, **quiet}] if noise else []),
        {"type": "RandomFlip3D", "flip_ratio_bev_horizontal": 0.5},
        {"type": "GlobalRotScaleTrans", "rot_range": [-0.785, 0.785], "scale_ratio_range": [0.95, 1.05]},
        {"type": "PointsRangeFilter", "point_cloud_range": RANGE},
        {"type": "ObjectRangeFilter", "point_cloud_range": RANGE},
        {"type": "ObjectNameFilter", "classes": CLASSES},
        {"type": "PointShuffle"},
        {"type": "Pack3DDetInputs", "keys": ["points", "gt_labels_3d", "gt_bboxes_3d"]},
    ]


def eval_pipeline() -> list[dict]:
    """The published test pipeline."""
    view = [
        {
            "type": "GlobalRotScaleTrans",
            "rot_range": [0, 0],
            "scale_ratio_range": [1.0, 1.0],
            "translation_std": [0, 0, 0],
        },
        {"type": "RandomFlip3D"},
        {"type": "PointsRangeFilter", "point_cloud_range": RANGE},
    ]
    return [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 4, "use_dim": 4, "backend_args": None},
        {
            "type": "MultiScaleFlipAug3D",
            "img_scale": (1333, 800),
            "pts_scale_ratio": 1,
            "flip": False,
            "transforms": view,
        },
        {"type": "Pack3DDetInputs", "keys": ["points"]},
    ]


def dataset_cfg(root: Path, *, split: str = "train", pipeline: list[dict], test_mode: bool = False) -> dict:
    """A KittiDataset's config, as published."""
    return {
        "type": "KittiDataset",
        "data_root": f"{root}/",
        "ann_file": f"kitti_infos_{split}.pkl",
        "data_prefix": {"pts": "training/velodyne_reduced"},
        "pipeline": pipeline,
        "modality": {"use_lidar": True, "use_camera": False},
        "test_mode": test_mode,
        "metainfo": {"classes": CLASSES},
        "box_type_3d": "LiDAR",
        "backend_args": None,
    }
