"""Two short scenes in nuScenes' raw layout, with a turning car and objects whose points are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet3d.ops.rigid_transforms import invert, multiply, quaternion_to_matrix

Floats = NDArray[np.float64]
Tables = dict[str, list[dict[str, Any]]]

VERSION = "v1.0-mini"
SCENES = {"scene-0061": 3, "scene-0103": 2}  # of mini_train and of mini_val, with their keyframes
SWEEPS_BETWEEN = 4
PERIOD_S = 0.5
LIDAR = ([np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5)], [0.94, 0.0, 1.84])
CAMERAS = {
    "CAM_FRONT": 0.0,
    "CAM_FRONT_RIGHT": -55.0,
    "CAM_FRONT_LEFT": 55.0,
    "CAM_BACK": 180.0,
    "CAM_BACK_LEFT": 110.0,
    "CAM_BACK_RIGHT": -110.0,
}
INTRINSIC = [[1000.0, 0.0, 800.0], [0.0, 1000.0, 450.0], [0.0, 0.0, 1.0]]

# Category, attribute, place in the first pose's ego frame, size (width, length, height), heading, speed, points.
OBJECTS = [
    ("vehicle.car", "vehicle.moving", (15.0, 4.0, 0.8), (1.9, 4.5, 1.6), 0.1, 6.0, 30),
    ("vehicle.car", "vehicle.parked", (-12.0, -6.0, 0.8), (1.8, 4.2, 1.5), 3.0, 0.0, 25),
    ("vehicle.truck", "vehicle.stopped", (25.0, -8.0, 1.6), (2.5, 7.0, 3.0), -0.4, 0.0, 20),
    ("human.pedestrian.adult", "pedestrian.moving", (8.0, -5.0, 0.9), (0.6, 0.7, 1.7), 1.3, 1.4, 12),
    ("human.pedestrian.child", "pedestrian.standing", (6.0, 7.0, 0.6), (0.5, 0.5, 1.2), -2.0, 0.0, 6),
    ("movable_object.barrier", "", (10.0, 9.0, 0.5), (2.0, 0.5, 1.0), 0.2, 0.0, 9),
    ("movable_object.trafficcone", "", (4.0, -9.0, 0.4), (0.4, 0.4, 0.8), 0.0, 0.0, 4),
    ("vehicle.bicycle", "cycle.without_rider", (-8.0, 8.0, 0.6), (0.6, 1.7, 1.2), 0.7, 0.0, 7),
    ("vehicle.bicycle", "cycle.with_rider", (-15.0, 3.0, 0.8), (0.6, 1.8, 1.7), 0.0, 4.0, 8),
    ("static_object.bicycle_rack", "", (-8.0, 8.0, 0.6), (3.0, 4.0, 1.5), 0.7, 0.0, 0),
    ("animal", "", (9.0, 2.0, 0.3), (0.3, 0.6, 0.5), 0.0, 0.0, 5),
    ("vehicle.bus.rigid", "vehicle.moving", (30.0, 10.0, 1.7), (2.8, 11.0, 3.3), 0.0, 8.0, 0),
]


def yaw_quaternion(yaw: float) -> Floats:
    """The rotation about z."""
    return np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])


def ego_pose(scene: int, time_s: float) -> tuple[list[float], list[float]]:
    """Rotation and translation of the car, which turns left and pitches a little."""
    pitch = np.array([np.cos(0.005), 0.0, np.sin(0.005), 0.0])
    rotation = multiply(yaw_quaternion(0.2 + 0.3 * time_s + scene), pitch)
    return rotation.tolist(), [400.0 + 100 * scene + 5 * time_s, 1100.0 + 0.5 * time_s, 0.0]


def object_pose(scene: int, index: int, time_s: float) -> tuple[Floats, Floats, Floats]:
    """Centre, quaternion and velocity of an object in the global frame."""
    _, _, place, _, heading, speed, _ = OBJECTS[index]
    start = quaternion_to_matrix(*ego_pose(scene, 0.0))
    yaw = float(np.arctan2(start[1, 0], start[0, 0])) + heading
    velocity = speed * np.array([np.cos(yaw), np.sin(yaw), 0.0])
    return start[:3, :3] @ place + start[:3, 3] + velocity * time_s, yaw_quaternion(yaw), velocity


def write_nuscenes(root: Path, *, change: Callable[[Tables], None] | None = None) -> Path:
    """Write the scenes' clouds and tables.

    Args:
        root: Folder to make.
        change: Changes the tables before they are written.
    """
    tables: Tables = {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation")}
    categories = sorted({item[0] for item in OBJECTS})
    attributes = sorted({item[1] for item in OBJECTS if item[1]})
    tables["category"] = [{"token": f"category-{name}", "name": name, "description": ""} for name in categories]
    tables["attribute"] = [{"token": f"attribute-{name}", "name": name, "description": ""} for name in attributes]
    tables["visibility"] = [{"token": str(i), "level": f"v{i}", "description": ""} for i in range(1, 5)]
    tables["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": "town"}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/m.png"}]
    modality = {"LIDAR_TOP": "lidar", **dict.fromkeys(CAMERAS, "camera")}
    tables["sensor"] = [{"token": f"sensor-{c}", "channel": c, "modality": modality[c]} for c in modality]
    tables["calibrated_sensor"] = [_calibration(channel) for channel in modality]
    tables["instance"] = [
        {
            "token": f"instance-{scene}-{i}",
            "category_token": f"category-{item[0]}",
            "nbr_annotations": count,
            "first_annotation_token": f"ann-{scene}-0-{i}",
            "last_annotation_token": f"ann-{scene}-{count - 1}-{i}",
        }
        for scene, count in enumerate(SCENES.values())
        for i, item in enumerate(OBJECTS)
    ]
    for scene, (name, count) in enumerate(SCENES.items()):
        _write_scene(root, tables, scene, name, count)
    if change is not None:
        change(tables)
    (root / VERSION).mkdir(parents=True, exist_ok=True)
    for key, records in tables.items():
        (root / VERSION / f"{key}.json").write_text(json.dumps(records))
    (root / "maps").mkdir(exist_ok=True)
    (root / "maps" / "m.png").write_bytes(b"")
    return root


def _calibration(channel: str) -> dict[str, Any]:
    rotation, translation = LIDAR
    if channel != "LIDAR_TOP":
        # A camera looks along its z axis, with x to the right and y down.
        axes = np.array([0.5, -0.5, 0.5, -0.5])
        rotation = multiply(yaw_quaternion(np.deg2rad(CAMERAS[channel])), axes).tolist()
        translation = [1.5, 0.1, 1.5]
    return {
        "token": f"calibration-{channel}",
        "sensor_token": f"sensor-{channel}",
        "translation": translation,
        "rotation": rotation,
        "camera_intrinsic": [] if channel == "LIDAR_TOP" else INTRINSIC,
    }


def _write_scene(root: Path, tables: Tables, scene: int, name: str, count: int) -> None:
    base_us = 1_532_402_927_600_000 + 10_000_000 * scene
    tables["scene"].append(
        {
            "token": f"scene-{scene}",
            "log_token": "log",
            "nbr_samples": count,
            "first_sample_token": f"sample-{scene}-0",
            "last_sample_token": f"sample-{scene}-{count - 1}",
            "name": name,
            "description": "",
        }
    )
    for number in range(count):
        tables["sample"].append(
            {
                "token": f"sample-{scene}-{number}",
                "timestamp": base_us + round(PERIOD_S * 1e6) * number,
                "prev": f"sample-{scene}-{number - 1}" if number else "",
                "next": f"sample-{scene}-{number + 1}" if number + 1 < count else "",
                "scene_token": f"scene-{scene}",
            }
        )
        for i in range(len(OBJECTS)):
            _add_annotation(tables, scene, number, i, count)
        for channel in CAMERAS:
            time_s = PERIOD_S * number - 0.02
            token = f"data-{scene}-{channel}-{number}"
            file = f"samples/{channel}/{name}__{number}.jpg"
            _add_data(tables, token, scene, number, channel, base_us, time_s, file, is_key=True)
    steps = (count - 1) * (SWEEPS_BETWEEN + 1)
    for step in range(steps + 1):
        number, rest = divmod(step, SWEEPS_BETWEEN + 1)
        time_s = PERIOD_S * step / (SWEEPS_BETWEEN + 1)
        folder = "sweeps" if rest else "samples"
        file = f"{folder}/LIDAR_TOP/{name}__{step}.pcd.bin"
        token = f"data-{scene}-LIDAR_TOP-{step}"
        record = _add_data(
            tables, token, scene, number + (rest > 0), "LIDAR_TOP", base_us, time_s, file, is_key=not rest
        )
        record["prev"] = f"data-{scene}-LIDAR_TOP-{step - 1}" if step else ""
        record["next"] = f"data-{scene}-LIDAR_TOP-{step + 1}" if step < steps else ""
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_scan(scene, time_s).tobytes())


def _add_data(
    tables: Tables,
    token: str,
    scene: int,
    number: int,
    channel: str,
    base_us: int,
    time_s: float,
    file: str,
    *,
    is_key: bool,
) -> dict[str, Any]:
    rotation, translation = ego_pose(scene, time_s)
    timestamp = base_us + round(time_s * 1e6)
    pose = {"token": f"pose-{token}", "timestamp": timestamp, "rotation": rotation, "translation": translation}
    tables["ego_pose"].append(pose)
    record = {
        "token": token,
        "sample_token": f"sample-{scene}-{number}",
        "ego_pose_token": f"pose-{token}",
        "calibrated_sensor_token": f"calibration-{channel}",
        "timestamp": timestamp,
        "fileformat": "pcd" if channel == "LIDAR_TOP" else "jpg",
        "is_key_frame": is_key,
        "height": 0 if channel == "LIDAR_TOP" else 900,
        "width": 0 if channel == "LIDAR_TOP" else 1600,
        "filename": file,
        "prev": "",
        "next": "",
    }
    tables["sample_data"].append(record)
    return record


def _add_annotation(tables: Tables, scene: int, number: int, i: int, count: int) -> None:
    _, attribute, _, size, _, speed, points = OBJECTS[i]
    center, rotation, _ = object_pose(scene, i, PERIOD_S * number)
    tables["sample_annotation"].append(
        {
            "token": f"ann-{scene}-{number}-{i}",
            "sample_token": f"sample-{scene}-{number}",
            "instance_token": f"instance-{scene}-{i}",
            "visibility_token": "4",
            "attribute_tokens": [f"attribute-{attribute}"] if attribute else [],
            "translation": center.tolist(),
            "size": list(size),
            "rotation": rotation.tolist(),
            "prev": f"ann-{scene}-{number - 1}-{i}" if number else "",
            "next": f"ann-{scene}-{number + 1}-{i}" if number + 1 < count else "",
            "num_lidar_pts": points,
            "num_radar_pts": 2 if speed == 8.0 else 0,
        }
    )


def _scan(scene: int, time_s: float) -> NDArray[np.float32]:
    """Points inside of the objects at a time, far clutter, and two points on the car itself, in the LiDAR's frame."""
    rng = np.random.default_rng([scene, round(time_s * 1000)])
    to_lidar = invert(quaternion_to_matrix(*ego_pose(scene, time_s)) @ quaternion_to_matrix(*LIDAR))
    clouds = [
        rng.uniform((-45, -45, -2), (45, 45, -1.9), (50, 3)) * [1, 1, 5],
        np.array([[0.5, 0.5, -1], [-0.5, 0, 0]]),
    ]
    for i, item in enumerate(OBJECTS):
        center, rotation, _ = object_pose(scene, i, time_s)
        width, length, height = item[3]
        local = rng.uniform(-0.45, 0.45, (item[6], 3)) * [length, width, height]
        world = local @ quaternion_to_matrix(rotation.tolist())[:3, :3].T + center
        clouds.append(world @ to_lidar[:3, :3].T + to_lidar[:3, 3])
    points = np.concatenate(clouds)
    return np.column_stack([points, rng.uniform(0, 255, len(points)), rng.integers(0, 32, len(points))]).astype("<f4")
