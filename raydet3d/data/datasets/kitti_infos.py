"""KITTI frames as entries of an info file: made from the raw files' content, or converted from the v1 layout.

The v2 layout is MMDetection3D's: `images` (calibration and the image of camera 2), `lidar_points`, `instances` (every
label line) and `cam_instances` (the objects that camera 2 sees, which image-based models read).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.datasets.image_bounds import bounds_in_image
from raydet3d.data.datasets.kitti_io import KITTI_CATEGORIES, Calib, Floats, Labels, pad_to_4x4
from raydet3d.errors import InputError
from raydet3d.info_file import INFO_FORMATS, InfoFormat, InfoRecord, Infos
from raydet3d.ops.points import bev_corners

CATEGORIES = {**{name: number for number, name in enumerate(KITTI_CATEGORIES)}, "DontCare": -1}
"""Number of each name in an info file."""


def make_metainfo(categories: Mapping[str, int] = CATEGORIES) -> dict[str, Any]:
    """Return the `metainfo` of a KITTI info file."""
    return {"categories": dict(categories), "dataset": "kitti", "info_version": "1.1"}


def make_frame(
    sample_idx: int,
    calib: Calib,
    *,
    image_size: tuple[int, int],
    image_name: str | None,
    lidar_name: str,
    num_pts_feats: int = 4,
) -> dict[str, Any]:
    """Return a frame's entry, without its objects.

    Args:
        sample_idx: Number of the frame.
        calib: Its calibration.
        image_size: Height and width of camera 2's image, pixels.
        image_name: File name of that image; None where there is none.
        lidar_name: File name of the point cloud.
        num_pts_feats: Numbers of a point.
    """
    lidar2cam = calib.lidar2cam
    images: dict[str, Any] = {
        f"CAM{number}": {"cam2img": p.tolist(), "lidar2img": (p @ lidar2cam).tolist()} for number, p in calib.p.items()
    }
    images["CAM2"] |= {"height": image_size[0], "width": image_size[1], "lidar2cam": lidar2cam.tolist()}
    if image_name is not None:
        images["CAM2"]["img_path"] = image_name
    images["R0_rect"] = calib.r0_rect.tolist()
    lidar: dict[str, Any] = {
        "num_pts_feats": num_pts_feats,
        "lidar_path": lidar_name,
        "Tr_velo_to_cam": calib.velo_to_cam.tolist(),
    }
    if calib.imu_to_velo is not None:
        lidar["Tr_imu_to_velo"] = calib.imu_to_velo.tolist()
    return {"sample_idx": sample_idx, "images": images, "lidar_points": lidar}


def make_instances(
    labels: Labels, calib: Calib, num_points: NDArray[np.int64], categories: Mapping[str, int] = CATEGORIES
) -> list[dict[str, Any]]:
    """Return a frame's `instances`: every label line, DontCare included, boxes in the camera frame.

    Args:
        labels: K label lines.
        calib: The frame's calibration.
        num_points: (K,) LiDAR points in each box.
        categories: Number of each name; others get -1.
    """
    pixels, depth = _project(_centres(labels), calib.p[2])
    is_object = labels.is_object
    index = np.where(is_object, np.cumsum(is_object) - 1, -1)
    difficulty = labels.difficulty
    return [
        {
            "bbox": labels.bbox[i].tolist(),
            "bbox_label": categories.get(name, -1),
            "bbox_3d": labels.boxes[i].tolist(),
            "bbox_label_3d": categories.get(name, -1),
            "depth": float(depth[i]),
            "center_2d": pixels[i].tolist(),
            "num_lidar_pts": int(num_points[i]) if is_object[i] else -1,
            "difficulty": int(difficulty[i]),
            "truncated": float(labels.truncated[i]),
            "occluded": int(labels.occluded[i]),
            "alpha": float(labels.alpha[i]),
            "score": float(labels.score[i]),
            "index": int(index[i]),
            "group_id": i,
        }
        for i, name in enumerate(labels.names)
    ]


def make_cam_instances(labels: Labels, calib: Calib, image_size: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
    """Return a frame's `cam_instances`: objects whose projected 3D box meets camera 2's image.

    Their `bbox` is the part of the projection inside the image, not the label's.

    Args:
        labels: K label lines.
        calib: The frame's calibration.
        image_size: Height and width of the image, pixels.
    """
    centres = _centres(labels)
    pixels, depth = _project(centres, calib.p[2])
    corners = _corners(centres, labels.boxes)  # (K, 8, 3)
    found = []
    for i, name in enumerate(labels.names):
        if name not in KITTI_CATEGORIES or not 0 <= labels.occluded[i] <= 3 or depth[i] <= 0:
            continue
        in_front = corners[i][corners[i, :, 2] > 0]
        bbox = bounds_in_image(_project(in_front, calib.p[2])[0], image_size)
        if bbox is None:
            continue
        label = KITTI_CATEGORIES.index(name)
        found.append(
            {
                "bbox_label": label,
                "bbox_label_3d": label,
                "bbox": bbox,
                "bbox_3d_isvalid": True,
                "bbox_3d": labels.boxes[i].astype(np.float32).tolist(),
                "velocity": -1,  # KITTI has none
                "center_2d": pixels[i].tolist(),
                "depth": float(depth[i]),
            }
        )
    return {"CAM2": found}


@INFO_FORMATS.register_module("kitti")
class KittiInfoFormat(InfoFormat):
    """KITTI's info files. The older layout, v1, is a list of dicts: `image`, `point_cloud`, `calib`, `annos`."""

    categories: ClassVar[tuple[str, ...]] = KITTI_CATEGORIES

    @staticmethod
    def is_older_layout(content: object) -> bool:
        """Return whether the content is a list, as v1 is."""
        return isinstance(content, list)

    @classmethod
    def convert(cls, content: Sequence[InfoRecord], path: str | Path) -> Infos:
        """Convert v1 to v2; names that are none of KITTI's are numbered after them, in order of appearance."""
        categories = dict(CATEGORIES)
        frames = []
        for number, frame in enumerate(content):
            try:
                frames.append(_convert_v1_frame(frame, categories))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                what = f"has no key {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
                raise InputError(f"{path}: frame {number} of a v1 KITTI info list {what}") from None
        return {"metainfo": make_metainfo(categories), "data_list": frames}


def _convert_v1_frame(frame: InfoRecord, categories: dict[str, int]) -> dict[str, Any]:
    """Convert a frame of a v1 list; new names are entered into `categories`."""
    image, cloud = frame["image"], frame["point_cloud"]
    matrices = {name: pad_to_4x4(matrix) for name, matrix in frame["calib"].items()}
    calib = Calib(
        {number: matrices[f"P{number}"] for number in range(4) if f"P{number}" in matrices or number == 2},
        matrices["R0_rect"],
        matrices["Tr_velo_to_cam"],
        matrices.get("Tr_imu_to_velo"),
    )
    height, width = (int(side) for side in image["image_shape"][:2])
    out = make_frame(
        int(image["image_idx"]),
        calib,
        image_size=(height, width),
        image_name=Path(str(image["image_path"])).name,
        lidar_name=Path(str(cloud["velodyne_path"])).name,
        num_pts_feats=int(cloud.get("num_features", 4)),
    )
    if frame.get("plane") is not None:
        out["plane"] = frame["plane"]
    if frame.get("annos") is not None:
        out |= _convert_v1_objects(frame["annos"], calib, (height, width), categories)
    return out


def _convert_v1_objects(
    annos: InfoRecord, calib: Calib, image_size: tuple[int, int], categories: dict[str, int]
) -> dict[str, Any]:
    """Return `instances` and `cam_instances` of a v1 frame, entering new names into `categories`."""
    count = len(annos["name"])

    def column(name: str, *width: int) -> Floats:
        return np.asarray(annos[name], dtype=np.float64).reshape(count, *width)

    names = tuple(map(str, annos["name"]))
    for name in names:
        categories.setdefault(name, sum(number >= 0 for number in categories.values()))
    labels = Labels(
        names=names,
        truncated=column("truncated"),
        occluded=column("occluded").astype(np.int64),
        alpha=column("alpha"),
        bbox=column("bbox", 4),
        boxes=np.concatenate([column("location", 3), column("dimensions", 3), column("rotation_y", 1)], axis=1),
        score=column("score") if annos.get("score") is not None else np.zeros(count),
    )
    instances = make_instances(labels, calib, np.full(count, -1), categories)
    # What v1 states is taken over; the rest was computed from the labels.
    for old, new in (
        ("num_points_in_gt", "num_lidar_pts"),
        ("difficulty", "difficulty"),
        ("index", "index"),
        ("group_ids", "group_id"),
    ):
        if annos.get(old) is not None:
            for instance, value in zip(instances, np.asarray(annos[old]).tolist(), strict=True):
                instance[new] = int(value)
    return {"instances": instances, "cam_instances": make_cam_instances(labels, calib, image_size)}


def _centres(labels: Labels) -> Floats:
    """Return (K, 3) box centres in the camera frame: y points down, half a height above the bottom."""
    centres: Floats = labels.boxes[:, :3] - labels.boxes[:, 3:6] * [0, 0.5, 0]
    return centres


def _corners(centres: Floats, boxes: Floats) -> Floats:
    """Return (K, 8, 3) corners of camera boxes."""
    # ry turns x towards -z.
    flat = bev_corners(np.column_stack((centres[:, [0, 2]], boxes[:, [3, 5]], -boxes[:, 6])))  # (K, 4, 2)
    half = boxes[:, 4, None] / 2
    rings = [
        np.stack((flat[..., 0], centres[:, 1, None] + sign * half + 0 * flat[..., 0], flat[..., 1]), -1)
        for sign in (-1, 1)
    ]
    return np.concatenate(rings, axis=1)


def _project(points: Floats, projection: Floats) -> tuple[Floats, Floats]:
    """Return (N, 2) pixels and (N,) depths in metres of (N, 3) points in the camera frame."""
    u, v, depth = projection[:3, :3] @ points.T + projection[:3, 3:4]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    return np.column_stack((u / safe, v / safe)), depth
