"""Prepare one cloud of own recordings: a copy in raydet3d's frame, its entry in the info file, its objects' points.

Legend: N points · K objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.datasets.custom_conventions import CLOUDS, Conventions
from raydet3d.data.datasets.custom_layout import CloudRecord, Objects, parse_labels, read_cameras, read_objects
from raydet3d.data.datasets.kitti_io import read_image_size
from raydet3d.files import write_atomic
from raydet3d.info_file import FrameInfo, Instance
from raydet3d.ops.points import points_in_boxes
from raydet3d.ops.rigid_transforms import invert

DATABASE = "custom_gt_database"


class CloudResult(TypedDict):
    """What the journal keeps of a prepared cloud.

    Attributes:
        signature: What the results depend on (see `CloudJob.signature`).
        cloud: Path of the cloud to read, relative to the data set's folder.
        num_points: Its points.
        info: The frame's entry in the info file; None for a cloud that is a sweep only.
        names: Class of each of the frame's instances.
        objects: Entries of the database's info file.
    """

    signature: list[Any]
    cloud: str
    num_points: int
    info: dict[str, Any] | None
    names: list[str]
    objects: list[dict[str, Any]]


@dataclass(frozen=True)
class CustomRawFrame:
    """A frame in its raw files.

    Args:
        root: The data set's folder.
        name: The frame's name.
        cloud: File of its cloud.
        label: File of its labels.
        calib: File of its calibration.
        conventions: Content of `dataset.json`.
        categories: Number of each class.
    """

    root: Path
    name: str
    cloud: Path
    label: Path | None
    calib: Path | None
    conventions: Conventions
    categories: Mapping[str, int]

    def files(self) -> list[Path]:
        """Return its cloud, its calibration and its labels."""
        return [path for path in (self.cloud, self.calib, self.label) if path is not None]

    def read(self) -> FrameInfo:
        """Return its entry for an info file, with every label that is not to be ignored."""
        info: FrameInfo = {
            "sample_idx": self.name,
            "lidar_points": {"lidar_path": self.cloud.relative_to(self.root).as_posix()},
        }
        if self.label is not None:
            labels, boxes, *_ = parse_labels(self.label, self.conventions, self.calib)
            names = [self.conventions.class_of.get(label, label) for label in labels]
            instances = [
                {"name": name, "bbox_3d": box, "bbox_label_3d": self.categories.get(name, -1)}
                for name, box in zip(names, boxes.tolist(), strict=True)
                if name is not None
            ]
            info["instances"] = cast(list[Instance], instances)
        return info


@dataclass(frozen=True, eq=False)
class CloudJob:
    """A cloud to prepare.

    Args:
        root: The data set's folder.
        name: The cloud's name.
        path: Its file.
        conventions: Content of `dataset.json`.
        features: Columns of a prepared cloud.
        is_frame: Whether a split names it; else it is a sweep only.
        cut_out: Whether its objects go into the database.
        record: Its time and pose, where they are known.
        sweeps: Earlier clouds and their files, the newest first.
        label: File of its labels.
        calib: File of its calibration.
        images: Its images by camera.
    """

    root: Path
    name: str
    path: Path
    conventions: Conventions
    features: tuple[str, ...]
    is_frame: bool
    cut_out: bool
    record: CloudRecord | None
    sweeps: tuple[tuple[CloudRecord, Path], ...]
    label: Path | None
    calib: Path | None
    images: dict[str, Path]

    def signature(self) -> list[Any]:
        """Return what the results depend on: the files' names, sizes and times, the conventions, times and poses."""
        sources = [self.path, *(path for _, path in self.sweeps), self.label, self.calib, *self.images.values()]
        stats = [(path.relative_to(self.root).as_posix(), path.stat()) for path in sources if path is not None]
        others = [self.conventions, self.features, *map(_describe, (self.record, *(one for one, _ in self.sweeps)))]
        digest = hashlib.sha256(repr(others).encode()).hexdigest()[:16]
        return [self.is_frame, self.cut_out, digest, *([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)]

    def is_done(self, result: CloudResult | None) -> bool:
        """Return whether a result was made from the present files, and all files that it names exist."""
        if result is None or result.get("signature") != self.signature():
            return False
        wanted = [(result["cloud"], result["num_points"])]
        wanted += [(entry["path"], entry["num_points_in_gt"]) for entry in result["objects"]]
        try:
            sizes = [(self.root / path).stat().st_size for path, _ in wanted]
        except OSError:
            return False
        return sizes == [4 * len(self.features) * count for _, count in wanted]


def _describe(record: CloudRecord | None) -> object:
    pose = None if record is None or record.pose is None else record.pose.tolist()
    return None if record is None else (record.name, record.timestamp, pose)


def prepare_cloud(job: CloudJob) -> CloudResult:
    """Prepare a cloud and write its files."""
    points = _read(job, job.path)
    content = points.data if len(points) else b""
    # A .bin file that already holds these numbers is used as it is.
    if job.path.suffix.lower() == ".bin" and job.path.read_bytes() == bytes(content):
        cloud = job.path.relative_to(job.root).as_posix()
    else:
        cloud = f"{CLOUDS}/{job.name}.bin"
        _write(job.root / cloud, content)
    result: CloudResult = {
        "signature": job.signature(),
        "cloud": cloud,
        "num_points": len(points),
        "info": None,
        "names": [],
        "objects": [],
    }
    if job.is_frame:
        info = result["info"] = _make_info(job, cloud)
        if job.label is not None:
            objects = read_objects(job.label, job.conventions, job.calib)
            inside: NDArray[np.bool_] = points_in_boxes(points.astype(np.float64), objects.boxes)
            info["instances"] = _make_instances(objects, inside.sum(0))
            result["names"] = list(objects.names)
            if job.cut_out:
                result["objects"] = _cut_out(job, points, objects)
    return result


def _read(job: CloudJob, path: Path) -> NDArray[np.float32]:
    return job.conventions.read_points(path, with_time="time" in job.features)


def _write(path: Path, content: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _make_info(job: CloudJob, cloud: str) -> dict[str, Any]:
    """Return the frame's entry in the info file, without its objects; sweeps have the names of their clouds."""
    identity = np.eye(4).tolist()
    info: dict[str, Any] = {
        "sample_idx": job.name,
        "lidar_points": {"num_pts_feats": len(job.features), "lidar_path": cloud, "lidar2ego": identity},
        "images": _make_images(job),
    }
    record = job.record
    if record is not None and record.timestamp is not None:
        info["timestamp"] = record.timestamp
    if record is not None and record.pose is not None:
        info["ego2global"] = record.pose.tolist()
        if job.sweeps:
            info["lidar_sweeps"] = [
                {
                    "timestamp": sweep.timestamp,
                    "ego2global": None if sweep.pose is None else sweep.pose.tolist(),
                    "lidar_points": {
                        "num_pts_feats": len(job.features),
                        "lidar_path": sweep.name,
                        "lidar2sensor": _lidar_to_sweep(record, sweep).tolist(),
                    },
                }
                for sweep, _ in job.sweeps
            ]
    return info


def _lidar_to_sweep(record: CloudRecord, sweep: CloudRecord) -> NDArray[np.float64]:
    """Return the (4, 4) transform from the frame's LiDAR to the sweep's, through the fixed frame."""
    assert record.pose is not None
    assert sweep.pose is not None
    return invert(sweep.pose) @ record.pose


def _make_images(job: CloudJob) -> dict[str, Any]:
    if job.calib is None:
        return {}
    images: dict[str, Any] = {}
    cameras = read_cameras(job.calib, job.conventions)
    for name, camera in cameras.items():
        images[name] = {
            "cam2img": camera.cam2img.tolist(),
            "lidar2cam": camera.lidar2cam.tolist(),
            "lidar2img": (camera.cam2img @ camera.lidar2cam).tolist(),
        }
        # An image outside of a camera's folder is that of the only camera.
        path = job.images.get(name) or (job.images.get("") if len(cameras) == 1 else None)
        if path is not None:
            (height, width), _ = read_image_size(path)
            images[name] |= {"img_path": path.relative_to(job.root).as_posix(), "height": height, "width": width}
    return images


def _make_instances(objects: Objects, num_points: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return the frame's objects; labels are filled in when the classes of all frames are known."""
    return [
        {
            "bbox_3d": objects.boxes[i].tolist(),
            "bbox_label": -1,
            "bbox_label_3d": -1,
            "bbox_3d_isvalid": bool(num_points[i] > 0),
            "num_lidar_pts": int(num_points[i]),
            "velocity": objects.velocities[i].tolist(),
            "difficulty": int(objects.difficulty[i]),
        }
        for i in range(len(objects))
    ]


def _cut_out(job: CloudJob, points: NDArray[np.float32], objects: Objects) -> list[dict[str, Any]]:
    """Write each object's points of the frame and its sweeps, relative to its bottom centre; return their entries."""
    if not len(objects):
        return []
    clouds = [points]
    record = job.record
    for sweep, file in job.sweeps if record is not None else ():
        assert record is not None
        cloud = _read(job, file)
        to_sweep = _lidar_to_sweep(record, sweep)
        cloud[:, :3] = (cloud[:, :3] - to_sweep[:3, 3]) @ to_sweep[:3, :3]
        if "time" in job.features:
            cloud[:, job.features.index("time")] = (record.timestamp or 0.0) - (sweep.timestamp or 0.0)
        clouds.append(cloud)
    if len(clouds) > 1 and "time" in job.features:
        points[:, job.features.index("time")] = 0
    merged = np.concatenate(clouds)
    boxes = objects.boxes.astype(np.float32)
    inside = points_in_boxes(merged.astype(np.float64), boxes.astype(np.float64))
    entries = []
    for i, name in enumerate(objects.names):
        own = merged[inside[:, i]]
        own[:, :3] -= boxes[i, :3]
        path = f"{DATABASE}/{job.name}_{i}.bin"
        _write(job.root / path, own.data if len(own) else b"")
        entries.append(
            {
                "name": name,
                "path": path,
                "image_idx": job.name,
                "gt_idx": i,
                "box3d_lidar": [*boxes[i].tolist(), *np.nan_to_num(objects.velocities[i]).tolist()],
                "num_points_in_gt": len(own),
                "difficulty": int(objects.difficulty[i]),
            }
        )
    return entries
