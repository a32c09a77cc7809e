"""Prepare one nuScenes scene: its frames' entries in the info file, its objects for the database.

Legend: K annotations of a frame · N points.
"""

from __future__ import annotations

import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.datasets.image_bounds import bounds_in_image
from raydet3d.data.datasets.nuscenes_categories import ATTRIBUTES, CATEGORY_OF, NUSCENES_CATEGORIES
from raydet3d.data.datasets.nuscenes_infos import as_rows
from raydet3d.data.transforms.loading import LoadPointsFromFile
from raydet3d.data.transforms.multi_sweep import LoadPointsFromMultiSweeps
from raydet3d.errors import InputError
from raydet3d.files import write_atomic
from raydet3d.info_file import FrameInfo, InfoRecord
from raydet3d.ops.points import points_in_boxes
from raydet3d.ops.rigid_transforms import (
    conjugate,
    invert,
    multiply,
    quaternion_to_matrix,
    tait_bryan_yaw,
)

Floats = NDArray[np.float64]
DATABASE = "nuscenes_gt_database"
MAX_SWEEPS = 10
CHANNELS = 5

_IMAGE_SIZE = (900, 1600)
# Corners of a box of size 1 around its centre.
_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


@dataclass(frozen=True)
class SensorRecord:
    """A file of a sensor, and where the sensor was.

    Args:
        token: Token of the `sample_data` record.
        timestamp: Microseconds.
        file: Its path below the data set's folder.
        ego_rotation: Quaternion of the car in the global frame.
        ego_translation: Its position.
        sensor_rotation: Quaternion of the sensor in the car's frame.
        sensor_translation: Its position.
        intrinsic: (3, 3) rows of a camera's matrix; empty for a LiDAR.
    """

    token: str
    timestamp: int
    file: str
    ego_rotation: list[float]
    ego_translation: list[float]
    sensor_rotation: list[float]
    sensor_translation: list[float]
    intrinsic: list[list[float]]

    @property
    def ego2global(self) -> Floats:
        """(4, 4)."""
        return quaternion_to_matrix(self.ego_rotation, self.ego_translation)

    @property
    def sensor2ego(self) -> Floats:
        """(4, 4)."""
        return quaternion_to_matrix(self.sensor_rotation, self.sensor_translation)

    @property
    def global2sensor(self) -> Floats:
        """(4, 4)."""
        return invert(self.sensor2ego) @ invert(self.ego2global)

    @property
    def rotation_from_global(self) -> Floats:
        """(4,) quaternion from the global frame to the sensor's."""
        turns = [np.array(q) / np.linalg.norm(q) for q in (self.sensor_rotation, self.ego_rotation)]
        return multiply(conjugate(turns[0]), conjugate(turns[1]))


@dataclass(frozen=True)
class Annotation:
    """An annotated object in the global frame.

    Args:
        category: Name of its category, such as "vehicle.car".
        attribute: Name of its attribute, empty without one.
        translation: Centre, metres.
        size: Width, length, height.
        rotation: Quaternion.
        velocity: vx, vy, vz in metres a second, NaN where it is not known.
        num_lidar_pts: LiDAR points on it.
        num_radar_pts: Radar points on it.
    """

    category: str
    attribute: str
    translation: list[float]
    size: list[float]
    rotation: list[float]
    velocity: list[float]
    num_lidar_pts: int
    num_radar_pts: int


@dataclass(frozen=True)
class FrameJob:
    """A keyframe.

    Args:
        sample_idx: Its number in the info file.
        token: Token of the `sample` record.
        timestamp: Microseconds.
        lidar: Its LiDAR sweep.
        sweeps: Earlier sweeps, the newest first.
        cameras: Its images by camera; may lack some.
        annotations: Its objects; None for test data.
        mask_file: File name of its semantic labels, empty without them.
    """

    sample_idx: int
    token: str
    timestamp: int
    lidar: SensorRecord
    sweeps: tuple[SensorRecord, ...]
    cameras: dict[str, SensorRecord]
    annotations: tuple[Annotation, ...] | None
    mask_file: str = ""


@dataclass(frozen=True)
class SceneJob:
    """A scene to prepare.

    Args:
        root: The data set's folder.
        name: Name of the scene.
        frames: Its keyframes.
        cut_out: Whether its objects go to the database.
        result: File for the result: a `SceneRecord`, pickled and compressed by zlib, which finds out damage.
    """

    root: Path
    name: str
    frames: tuple[FrameJob, ...]
    cut_out: bool
    result: Path


@dataclass(frozen=True)
class NuScenesRawFrame:
    """A keyframe in nuScenes' tables.

    Args:
        tables: Folder of the tables.
        frame: The keyframe.
    """

    tables: Path
    frame: FrameJob

    def files(self) -> list[Path]:
        """Return its cloud and the table of its objects."""
        return [self.tables.parent / self.frame.lidar.file, self.tables / "sample_annotation.json"]

    def read(self) -> FrameInfo:
        """Return its entry for an info file."""
        return cast(FrameInfo, make_frame(self.frame))


class SceneRecord(TypedDict):
    """Result of a scene.

    Attributes:
        infos: Entries of its keyframes in the info file.
        objects: Entries of the database's info file.
        others: Categories that are not detected.
    """

    infos: list[dict[str, Any]]
    objects: list[dict[str, Any]]
    others: list[str]


def prepare_scene(job: SceneJob) -> str:
    """Prepare a scene's frames, write the result and its objects' points; return the scene's name."""
    record: SceneRecord = {"infos": [], "objects": [], "others": []}
    others: set[str] = set()
    for frame in job.frames:
        info = make_frame(frame)
        if frame.annotations is not None:
            others |= {one.category for one in frame.annotations if one.category not in CATEGORY_OF}
            if job.cut_out:
                record["objects"] += _cut_out(job.root, frame, info)
        record["infos"].append(info)
    record["others"] = sorted(others)
    write_atomic(job.result, zlib.compress(pickle.dumps(record, protocol=4), 1))
    return job.name


def make_frame(frame: FrameJob) -> dict[str, Any]:
    """Return a keyframe's entry in the info file, as MMDetection3D's converter makes it."""
    lidar = frame.lidar
    info: dict[str, Any] = {
        "sample_idx": frame.sample_idx,
        "token": frame.token,
        "timestamp": frame.timestamp / 1e6,
        "ego2global": as_rows(lidar.ego2global),
        "images": {name: _make_image(camera, lidar) for name, camera in frame.cameras.items()},
        "lidar_points": {
            "num_pts_feats": CHANNELS,
            "lidar_path": Path(lidar.file).name,
            "lidar2ego": as_rows(lidar.sensor2ego),
        },
        "instances": [],
    }
    if frame.sweeps:
        info["lidar_sweeps"] = [
            {
                "timestamp": sweep.timestamp / 1e6,
                "sample_data_token": sweep.token,
                "ego2global": as_rows(sweep.ego2global),
                "lidar_points": {
                    "num_pts_feats": None,
                    "lidar_path": sweep.file,
                    "lidar2ego": as_rows(sweep.sensor2ego),
                    "lidar2sensor": as_rows(_lidar_to_sensor(sweep, lidar)),
                },
            }
            for sweep in frame.sweeps
        ]
    if frame.mask_file:
        info["pts_semantic_mask_path"] = Path(frame.mask_file).name
    if frame.annotations is not None:
        info["instances"] = _make_instances(frame.annotations, lidar)
        info["cam_instances"] = {
            name: _make_cam_instances(frame.annotations, camera) for name, camera in frame.cameras.items()
        }
    return info


def _make_image(camera: SensorRecord, lidar: SensorRecord) -> dict[str, Any]:
    return {
        "img_path": Path(camera.file).name,
        "cam2img": np.array(camera.intrinsic, dtype=np.float64).tolist(),
        "sample_data_token": camera.token,
        "timestamp": camera.timestamp / 1e6,
        "cam2ego": as_rows(camera.sensor2ego),
        "lidar2cam": as_rows(_lidar_to_sensor(camera, lidar)),
    }


def _lidar_to_sensor(sensor: SensorRecord, lidar: SensorRecord) -> Floats:
    """Return the (4, 4) transform from the keyframe's LiDAR to a sensor at another moment, through the global frame."""
    return sensor.global2sensor @ lidar.ego2global @ lidar.sensor2ego


def _in_sensor(annotations: tuple[Annotation, ...], sensor: SensorRecord) -> tuple[Floats, Floats, Floats]:
    """Return (K, 3) centres, (K, 4) rotations and (K, 3) velocities in a sensor's frame."""
    matrix = sensor.global2sensor
    centers = np.array([one.translation for one in annotations], dtype=np.float64).reshape(-1, 3)
    rotations = np.array([one.rotation for one in annotations], dtype=np.float64).reshape(-1, 4)
    rotations /= np.linalg.norm(rotations, axis=-1, keepdims=True)
    velocities = np.array([[*one.velocity[:2], 0.0] for one in annotations], dtype=np.float64).reshape(-1, 3)
    turned = multiply(sensor.rotation_from_global, rotations)
    return centers @ matrix[:3, :3].T + matrix[:3, 3], turned, velocities @ matrix[:3, :3].T


def _make_instances(annotations: tuple[Annotation, ...], lidar: SensorRecord) -> list[dict[str, Any]]:
    centers, rotations, velocities = _in_sensor(annotations, lidar)
    yaws = tait_bryan_yaw(rotations)
    instances = []
    for i, one in enumerate(annotations):
        width, length, height = one.size
        name = CATEGORY_OF.get(one.category)
        label = NUSCENES_CATEGORIES.index(name) if name is not None else -1
        instances.append(
            {
                "bbox_label": label,
                "bbox_3d": [*centers[i].tolist(), length, width, height, float(yaws[i])],
                "bbox_3d_isvalid": one.num_lidar_pts + one.num_radar_pts > 0,
                "bbox_label_3d": label,
                "num_lidar_pts": one.num_lidar_pts,
                "num_radar_pts": one.num_radar_pts,
                "velocity": velocities[i, :2].tolist(),
            }
        )
    return instances


def _make_cam_instances(annotations: tuple[Annotation, ...], camera: SensorRecord) -> list[dict[str, Any]]:
    """Return the objects whose projected 3D box meets a camera's image; boxes in the camera's frame."""
    centers, rotations, velocities = _in_sensor(annotations, camera)
    yaws = tait_bryan_yaw(rotations)
    intrinsic = np.array(camera.intrinsic, dtype=np.float64)
    found = []
    for i, one in enumerate(annotations):
        name = CATEGORY_OF.get(one.category)
        width, length, height = one.size
        if name is None or centers[i, 2] <= 0:
            continue
        turn = quaternion_to_matrix(rotations[i].tolist())[:3, :3]
        corners = (_CORNERS * [length, width, height]) @ turn.T + centers[i]
        seen = corners[corners[:, 2] > 0] @ intrinsic.T
        bbox = bounds_in_image(seen[:, :2] / seen[:, 2:], _IMAGE_SIZE)
        if bbox is None:
            continue
        # In float32, as the original projects it.
        u, v, depth = (intrinsic.astype(np.float32) @ centers[i].astype(np.float32)).tolist()
        label = NUSCENES_CATEGORIES.index(name)
        found.append(
            {
                "bbox_label": label,
                "bbox_label_3d": label,
                "bbox": bbox,
                "bbox_3d_isvalid": True,
                "bbox_3d": [*centers[i].tolist(), length, height, width, -float(yaws[i])],
                "velocity": velocities[i, [0, 2]].tolist(),
                "center_2d": [u / depth, v / depth],
                "depth": depth,
                "attr_label": ATTRIBUTES.index(one.attribute or "None"),
            }
        )
    return found


def _cut_out(root: Path, frame: FrameJob, info: InfoRecord) -> list[dict[str, Any]]:
    """Write each object's points of all sweeps, relative to the bottom centre of its box; return their entries.

    Objects of categories that are not detected are counted, so that names are those of MMDetection3D, but not kept:
    it takes them for barriers.
    """
    kept = [one for one in info["instances"] if one["bbox_3d_isvalid"]]
    if not kept:
        return []
    boxes = np.array([[*one["bbox_3d"], *one["velocity"]] for one in kept], dtype=np.float32)
    boxes[:, 2] -= boxes[:, 5] / 2
    boxes[np.isnan(boxes[:, 7]), 7:] = 0
    points = _load_points(root, frame, info)
    inside = points_in_boxes(points.astype(np.float64), boxes[:, :7].astype(np.float64))
    entries = []
    for i, one in enumerate(kept):
        if one["bbox_label_3d"] < 0:
            continue
        name = NUSCENES_CATEGORIES[one["bbox_label_3d"]]
        own = points[inside[:, i]]
        own[:, :3] -= boxes[i, :3]
        path = f"{DATABASE}/{frame.sample_idx}_{name}_{i}.bin"
        write_atomic(root / path, own.data if len(own) else b"")
        entries.append(
            {
                "name": name,
                "path": path,
                "image_idx": frame.sample_idx,
                "gt_idx": i,
                "box3d_lidar": boxes[i].tolist(),
                "num_points_in_gt": len(own),
                "difficulty": 0,
            }
        )
    return entries


def _load_points(root: Path, frame: FrameJob, info: InfoRecord) -> NDArray[np.float32]:
    """Return the points of the keyframe and of its sweeps, without those on the car."""
    sample = {
        "lidar_points": {"lidar_path": str(root / frame.lidar.file)},
        "timestamp": info["timestamp"],
        **({"lidar_sweeps": _with_paths(root, info)} if frame.sweeps else {}),
    }
    for step in (
        LoadPointsFromFile(load_dim=CHANNELS, use_dim=CHANNELS),
        LoadPointsFromMultiSweeps(
            sweeps_num=MAX_SWEEPS, use_dim=CHANNELS, pad_empty_sweeps=True, remove_close=True, test_mode=True
        ),
    ):
        sample = step(sample)
    points: NDArray[np.float32] = sample["points"]
    return points


def _with_paths(root: Path, info: InfoRecord) -> list[dict[str, Any]]:
    return [
        {
            **sweep,
            "lidar_points": {**sweep["lidar_points"], "lidar_path": str(root / sweep["lidar_points"]["lidar_path"])},
        }
        for sweep in info["lidar_sweeps"]
    ]


def check_annotation(one: Annotation, place: str) -> None:
    """Refuse an annotation that no box can be made of.

    Raises:
        InputError: Its numbers are not finite, its size is not above 0, or its attribute is not known.
    """
    numbers = np.array([*one.translation, *one.size, *one.rotation], dtype=np.float64)
    if len(numbers) != 10 or not np.isfinite(numbers).all() or not np.linalg.norm(one.rotation) > 0:
        raise InputError(f"{place}: translation, size and rotation must be 3, 3 and 4 finite numbers")
    if min(one.size) <= 0:
        raise InputError(f"{place}: size is {one.size}; all of it must be above 0")
    if one.attribute and one.attribute not in ATTRIBUTES:
        raise InputError(f"{place}: its attribute {one.attribute!r} is none of {', '.join(ATTRIBUTES[:-1])}")
