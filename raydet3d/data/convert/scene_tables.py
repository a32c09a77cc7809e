"""Convert data in nuScenes' tables, of any maker: any number of LiDARs, any categories, any sensor names.

The frame is the car's: clouds of all LiDARs are moved into the pose of the first one's sweep and joined.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.convert.layout_writer import (
    CONVERTERS,
    CameraLabel,
    CustomLayoutWriter,
    ObjectLabel,
    split_sequences,
)
from raydet3d.data.datasets.nuscenes_tables import AnnotationTables, Record, Table
from raydet3d.data.point_cloud_file import COLUMNS, read_fields, select_columns
from raydet3d.errors import InputError
from raydet3d.ops.rigid_transforms import invert, quaternion_to_matrix
from raydet3d.progress_bar import ProgressBar

Floats = NDArray[np.float64]

MAX_LAG_S = 0.1
"""Sweeps of two LiDARs further apart in time are not joined."""


@CONVERTERS.register_module("scene_tables")
def convert_scene_tables(
    source: Path | str,
    root: Path | str,
    *,
    val: Sequence[str] = (),
    version: str = "",
    columns: Sequence[str] = ("x", "y", "z", "intensity", "ring"),
) -> None:
    """nuScenes-style tables of any maker: all LiDARs joined in the car's frame, sweeps, poses, velocities, cameras.

    It reads SOURCE/VERSION/{scene,sample,sample_data,ego_pose,calibrated_sensor,sensor,sample_annotation,instance,
    category,attribute}.json and the files that they name. Sweeps between keyframes are those of the first LiDAR
    (LIDAR_TOP where there is one) and the sweeps of the others nearest in time. Images are linked.

    Args:
        source: The data set's folder.
        root: Folder to make.
        val: Scenes to validate on, by name; those of VERSION/splits.json ("val") by default, or every fifth.
        version: Folder of the tables in SOURCE; not needed where there is only one.
        columns: Columns of the .bin clouds.

    Raises:
        InputError: A table or file is missing or malformed.
    """
    source = Path(source)
    tables = _Tables(source, version, columns)
    scenes = sorted(tables.scene, key=lambda record: str(tables.scene.value(record, "name")))
    names = [str(scene["name"]) for scene in scenes]
    split_of = split_sequences(names, val or tables.listed_for_validation(names))
    with CustomLayoutWriter(root) as out, ProgressBar(len(scenes), "scenes") as bar:
        for scene in scenes:
            tables.convert_scene(scene, split_of[scene["name"]], out)
            bar.step()


class _Tables:
    """The tables of a version.

    Args:
        source: The data set's folder.
        version: Folder of the tables.
        columns: Columns of the .bin clouds.
    """

    def __init__(self, source: Path, version: str, columns: Sequence[str]) -> None:
        found = sorted(path.parent for path in source.glob("*/sample_data.json"))
        folder = source / version if version else (found[0] if len(found) == 1 else None)
        if folder is None or not folder.is_dir():
            there = ", ".join(path.name for path in found) or "none"
            raise InputError(f"{source}: say with --version which folder has the tables; there is {there}")
        self.source, self.folder, self.columns = source, folder, columns
        self.scene = Table(folder, "scene")
        self.annotations = AnnotationTables(folder)
        self.sensor = Table(folder, "sensor")
        self.calibration = Table(folder, "calibrated_sensor")
        self.data = Table(folder, "sample_data")
        self.pose = Table(folder, "ego_pose")
        # Sweeps of each scene's LiDARs in the order of time, and the keyframes' images.
        self.sweeps: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        self.images: dict[str, dict[str, Record]] = defaultdict(dict)
        for record in self.data:
            sample = self.annotations.sample.follow(self.data, record, "sample_token")
            channel, modality = self._sensor(record)
            if modality == "lidar":
                self.sweeps[sample["scene_token"]][channel].append(record)
            elif modality == "camera" and record["is_key_frame"]:
                self.images[record["sample_token"]][channel] = record
        for channels in self.sweeps.values():
            for records in channels.values():
                records.sort(key=lambda record: int(record["timestamp"]))

    def _sensor(self, record: Record) -> tuple[str, str]:
        calibration = self.calibration.follow(self.data, record, "calibrated_sensor_token")
        sensor = self.sensor.follow(self.calibration, calibration, "sensor_token")
        return str(self.sensor.value(sensor, "channel")), str(self.sensor.value(sensor, "modality"))

    def listed_for_validation(self, names: Sequence[str]) -> list[str]:
        """Return the scenes that `splits.json` lists for validation; none without the file."""
        path = self.folder / "splits.json"
        if not path.is_file():
            return []
        try:
            return [name for name in json.loads(path.read_text(encoding="utf-8-sig"))["val"] if name in names]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f'{path}: must be {{"train": [scene names], "val": [scene names]}} ({error})') from None

    def convert_scene(self, scene: Record, split: str, out: CustomLayoutWriter) -> None:
        """Add the clouds of a scene: its keyframes, and the sweeps between them."""
        channels = self.sweeps[scene["token"]]
        if not channels:
            raise InputError(f"{self.data.path}: scene {scene['name']!r} has no sweep of a LiDAR")
        first = "LIDAR_TOP" if "LIDAR_TOP" in channels else sorted(channels)[0]
        others = [records for channel, records in sorted(channels.items()) if channel != first]
        times = [[int(record["timestamp"]) for record in records] for records in others]
        for number, key in enumerate(channels[first]):
            joined = [key]
            for records, own in zip(others, times, strict=True):
                near = _nearest(records, own, int(key["timestamp"]))
                joined += [] if near is None else [near]
            ego = self._ego(key)
            points = np.concatenate([self._read(record, ego) for record in joined])
            is_frame = bool(key["is_key_frame"])
            sample = key["sample_token"]
            cameras = self.images.get(sample, {}) if is_frame else {}
            files = {name: self.source / record["filename"] for name, record in cameras.items()}
            out.add(
                f"{scene['name']}/{number:06d}",
                points,
                objects=self._objects(sample, ego) if is_frame else None,
                split=split if is_frame else None,
                timestamp=int(key["timestamp"]) * 1e-6,
                pose=ego,
                sequence=str(scene["name"]),
                cameras={name: self._camera(record, ego) for name, record in cameras.items()},
                images={name: path for name, path in files.items() if path.is_file()},
            )

    def _ego(self, record: Record) -> Floats:
        pose = self.pose.follow(self.data, record, "ego_pose_token")
        return quaternion_to_matrix(self.pose.value(pose, "rotation"), self.pose.value(pose, "translation"))

    def _mounting(self, record: Record) -> Record:
        return self.calibration.follow(self.data, record, "calibrated_sensor_token")

    def _to_ego(self, record: Record, ego: Floats) -> Floats:
        """Return the (4, 4) transform from a sensor at its own time to the car at another."""
        mounting = self._mounting(record)
        sensor = quaternion_to_matrix(
            self.calibration.value(mounting, "rotation"), self.calibration.value(mounting, "translation")
        )
        return invert(ego) @ self._ego(record) @ sensor

    def _read(self, record: Record, ego: Floats) -> NDArray[np.float32]:
        path = self.source / record["filename"]
        points = select_columns(read_fields(path, columns=self.columns), COLUMNS, path, optional=("intensity",))
        move = self._to_ego(record, ego)
        points[:, :3] = points[:, :3] @ move[:3, :3].T + move[:3, 3]
        return points.astype(np.float32)

    def _camera(self, record: Record, ego: Floats) -> CameraLabel:
        intrinsic = self.calibration.value(self._mounting(record), "camera_intrinsic")
        return {"cam2img": intrinsic, "lidar2cam": invert(self._to_ego(record, ego))}

    def _objects(self, sample: str, ego: Floats) -> list[ObjectLabel]:
        tables = self.annotations
        objects: list[ObjectLabel] = []
        back = invert(ego)
        for record in tables.of_sample.get(sample, ()):
            width, length, height = tables.annotation.value(record, "size")
            center = back[:3, :3] @ tables.annotation.value(record, "translation") + back[:3, 3]
            heading = back[:3, :3] @ quaternion_to_matrix(tables.annotation.value(record, "rotation"))[:3, 0]
            velocity = back[:3, :3] @ tables.velocity(record)
            objects.append(
                {
                    "class": tables.category_name(record),
                    "center": center.tolist(),
                    "size": [length, width, height],
                    "yaw": float(np.arctan2(heading[1], heading[0])),
                    "velocity": velocity[:2].tolist() if np.isfinite(velocity).all() else None,
                    "id": record["instance_token"],
                }
            )
        return objects


def _nearest(records: Sequence[Record], times: Sequence[int], time: int) -> Record | None:
    """Return the record nearest to a time, microseconds; None if it is too far away."""
    right = bisect_left(times, time)
    near = min(range(max(0, right - 1), min(len(times), right + 1)), key=lambda i: abs(times[i] - time), default=None)
    return None if near is None or abs(times[near] - time) > MAX_LAG_S * 1e6 else records[near]
