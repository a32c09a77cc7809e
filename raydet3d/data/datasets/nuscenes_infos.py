"""nuScenes info files: meta information, and the older layout (v1), which is converted as it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.datasets.nuscenes_categories import NUSCENES_CATEGORIES
from raydet3d.data.datasets.nuscenes_tables import read_annotated_objects
from raydet3d.errors import InputError
from raydet3d.info_file import INFO_FORMATS, AnnotatedObjects, InfoFormat, InfoRecord, Infos
from raydet3d.ops.rigid_transforms import invert, quaternion_to_matrix


def make_metainfo(version: str, others: Sequence[str] = ()) -> dict[str, Any]:
    """Return the `metainfo` of an info file; `others` are names of categories that are not detected."""
    categories = {name: number for number, name in enumerate(NUSCENES_CATEGORIES)} | dict.fromkeys(sorted(others), -1)
    return {"categories": categories, "dataset": "nuscenes", "version": version, "info_version": "1.1"}


def as_rows(matrix: NDArray[np.float64]) -> list[list[float]]:
    """Return a matrix as an info file holds it: rows of numbers, rounded to float32."""
    rows: list[list[float]] = matrix.astype(np.float32).tolist()
    return rows


@INFO_FORMATS.register_module("nuscenes")
class NuScenesInfoFormat(InfoFormat):
    """nuScenes' info files. The older layout, v1, is a dict of `infos` and `metadata`."""

    categories: ClassVar[tuple[str, ...]] = NUSCENES_CATEGORIES

    @staticmethod
    def is_older_layout(content: object) -> bool:
        """Return whether the content is a dict of `infos` and `metadata`, as v1 is."""
        return isinstance(content, Mapping) and "infos" in content and "metadata" in content

    @classmethod
    def convert(cls, content: InfoRecord, path: str | Path) -> Infos:
        """Convert v1 to v2; without `cam_instances`, which v1 has in files of their own."""
        others: set[str] = set()
        frames = []
        for number, frame in enumerate(content["infos"]):
            try:
                frames.append(_convert_v1_frame(number, frame, others))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                what = f"has no key {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
                raise InputError(f"{path}: frame {number} of a v1 nuScenes info file {what}") from None
        version = str(content["metadata"].get("version", "v1.0-trainval"))
        return {"metainfo": make_metainfo(version, sorted(others)), "data_list": frames}

    @classmethod
    def read_ground_truth(cls, root: Path, version: str, frame_tokens: Sequence[str]) -> AnnotatedObjects:
        """Read the objects of the detection classes, and bicycle racks ("bicycle_rack"), from the tables."""
        return read_annotated_objects(root, version, frame_tokens)


def _convert_v1_frame(number: int, frame: InfoRecord, others: set[str]) -> dict[str, Any]:
    """Convert a frame of v1; names of categories that are not detected are added to `others`."""
    out: dict[str, Any] = {
        "sample_idx": number,
        "token": frame["token"],
        "timestamp": frame["timestamp"] / 1e6,
        "ego2global": as_rows(_pose(frame, "ego2global")),
        "lidar_points": {
            "num_pts_feats": int(frame.get("num_features", 5)),
            "lidar_path": Path(str(frame["lidar_path"])).name,
            "lidar2ego": as_rows(_pose(frame, "lidar2ego")),
        },
        "images": {name: _convert_v1_camera(camera) for name, camera in frame["cams"].items()},
        "instances": [],
    }
    sweeps = [
        {
            "timestamp": sweep["timestamp"] / 1e6,
            "sample_data_token": sweep["sample_data_token"],
            "ego2global": as_rows(_pose(sweep, "ego2global")),
            "lidar_points": {
                "lidar_path": str(sweep["data_path"]),
                "lidar2ego": as_rows(_pose(sweep, "sensor2ego")),
                "lidar2sensor": as_rows(_lidar_to_sensor(sweep)),
            },
        }
        for sweep in frame["sweeps"]
    ]
    if sweeps:
        out["lidar_sweeps"] = sweeps
    if "gt_boxes" in frame:
        for i, name in enumerate(map(str, frame["gt_names"])):
            label = NUSCENES_CATEGORIES.index(name) if name in NUSCENES_CATEGORIES else -1
            if label < 0:
                others.add(name)
            out["instances"].append(
                {
                    "bbox_3d": np.asarray(frame["gt_boxes"][i], dtype=np.float64).tolist(),
                    "bbox_label": label,
                    "bbox_label_3d": label,
                    "velocity": np.asarray(frame["gt_velocity"][i], dtype=np.float64).tolist(),
                    "num_lidar_pts": int(frame["num_lidar_pts"][i]),
                    "num_radar_pts": int(frame["num_radar_pts"][i]),
                    "bbox_3d_isvalid": bool(frame["valid_flag"][i]),
                }
            )
    return out


def _convert_v1_camera(camera: InfoRecord) -> dict[str, Any]:
    return {
        "img_path": Path(str(camera["data_path"])).name,
        "cam2img": np.asarray(camera["cam_intrinsic"], dtype=np.float64).tolist(),
        "sample_data_token": camera["sample_data_token"],
        "timestamp": camera["timestamp"] / 1e6,
        "cam2ego": as_rows(_pose(camera, "sensor2ego")),
        "lidar2cam": as_rows(_lidar_to_sensor(camera)),
    }


def _pose(record: InfoRecord, name: str) -> NDArray[np.float64]:
    return quaternion_to_matrix(record[f"{name}_rotation"], record[f"{name}_translation"])


def _lidar_to_sensor(record: InfoRecord) -> NDArray[np.float64]:
    sensor_to_lidar = np.eye(4)
    sensor_to_lidar[:3, :3] = record["sensor2lidar_rotation"]
    sensor_to_lidar[:3, 3] = np.asarray(record["sensor2lidar_translation"]).reshape(3)
    return invert(sensor_to_lidar)
