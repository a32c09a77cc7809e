"""KITTI annotations of a frame, from an info file's instances or from predictions, and KITTI's result files.

An annotation is a dict of columns: name, truncated, occluded, alpha, bbox (x1, y1, x2, y2), dimensions (l, h, w),
location (x, y, z of the bottom centre in the camera frame), rotation_y, and for predictions score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raydet3d.info_file import CameraInfo, Instance
from raydet3d.metrics.kitti_objects import Annotation, Floats
from raydet3d.structures.boxes import Box3DMode, Boxes3D

NO_ALPHA = -10.0


def truth_annotation(instances: Sequence[Instance], names: Mapping[int, str]) -> Annotation:
    """Return the ground truth of a frame.

    Missing values default to truncated 0, occluded 0, alpha unknown, and an empty 2D box.

    Args:
        instances: As an info file of layout v2 holds them.
        names: Names by label; other labels are DontCare regions.
    """

    def column(key: str, default: float | list[float], *width: int) -> Floats:
        return np.array([i.get(key, default) for i in instances], float).reshape(-1, *width)

    boxes = column("bbox_3d", [-1000.0] * 3 + [-1.0] * 3 + [NO_ALPHA], 7)
    labels = [int(i.get("bbox_label", i.get("bbox_label_3d", -1))) for i in instances]
    return {
        "name": np.array([names.get(label, "DontCare") for label in labels], dtype=np.str_),
        "truncated": column("truncated", 0.0),
        "occluded": column("occluded", 0.0),
        "alpha": column("alpha", NO_ALPHA),
        "bbox": column("bbox", [0.0] * 4, 4),
        "dimensions": boxes[:, 3:6],
        "location": boxes[:, :3],
        "rotation_y": boxes[:, 6],
    }


def found_annotation(
    boxes: Boxes3D,
    scores: npt.ArrayLike,
    names: Sequence[str],
    *,
    camera: CameraInfo,
    limit_range: Sequence[float],
) -> tuple[Annotation, dict[str, int]]:
    """Return the 3D predictions of a frame with their projected image boxes.

    Boxes are kept if their projection touches the image and, for LiDAR boxes, the bottom centre is in the range.

    Args:
        boxes: K boxes in the LiDAR or camera frame.
        scores: (K,) confidences.
        names: K class names.
        camera: The camera's entry of an info file: `cam2img`, `lidar2cam`, `height`, `width`.
        limit_range: x0, y0, z0, x1, y1, z1 in the LiDAR frame, metres.

    Returns:
        The annotation, and the number of boxes left out by reason.
    """
    cam2img = np.asarray(camera["cam2img"], float)
    lidar2cam = np.asarray(camera["lidar2cam"], float)
    size = np.array([camera["width"], camera["height"]], float)
    boxes = boxes.to("cpu")
    if boxes.mode == Box3DMode.LIDAR:
        in_camera, in_lidar = boxes.convert_to(Box3DMode.CAM, lidar2cam), boxes
        place = in_lidar.bottom_center.double().numpy()
        low, high = np.asarray(limit_range[:3], float), np.asarray(limit_range[3:], float)
        in_range = ((place > low) & (place < high)).all(1)
    else:
        in_camera, in_lidar = boxes, boxes.convert_to(Box3DMode.LIDAR, np.linalg.inv(lidar2cam))
        place = in_lidar.bottom_center.double().numpy()
        in_range = np.ones(len(boxes), bool)
    corners = in_camera.corners.double().numpy()  # (K, 8, 3)
    image = corners @ cam2img[:3, :3].T + cam2img[:3, 3]
    # Boxes partly behind the camera give meaningless image boxes; the published numbers include them.
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = image[..., :2] / image[..., 2:]
    first, last = pixels.min(1), pixels.max(1)
    in_image = ((first < size) & (last > 0)).all(1)
    keep = in_range & in_image
    rows = in_camera.tensor[:, :7].double().numpy()[keep]
    bbox = np.concatenate([np.maximum(first, 0), np.minimum(last, size)], 1)[keep]
    place = place[keep]
    annotation: Annotation = {
        "name": np.array(names, dtype=np.str_)[keep],
        "truncated": np.zeros(len(rows)),
        "occluded": np.zeros(len(rows)),
        "alpha": -np.arctan2(-place[:, 1], place[:, 0]) + rows[:, 6],
        "bbox": bbox,
        "dimensions": rows[:, 3:6],
        "location": rows[:, :3],
        "rotation_y": rows[:, 6],
        "score": np.asarray(scores, float)[keep],
    }
    return annotation, {"range": int((~in_range).sum()), "image": int((in_range & ~in_image).sum())}


def found_annotation_2d(boxes: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> Annotation:
    """Return the image predictions of a frame: (K, 4) boxes, (K,) scores, K names; without 3D boxes."""
    num = len(names)
    return {
        "name": np.array(names, dtype=np.str_),
        "truncated": np.zeros(num),
        "occluded": np.zeros(num),
        "alpha": np.full(num, NO_ALPHA),
        "bbox": np.asarray(boxes, float).reshape(num, 4),
        "dimensions": np.zeros((num, 3)),
        "location": np.full((num, 3), -1000.0),
        "rotation_y": np.zeros(num),
        "score": np.asarray(scores, float),
    }


def file_name(sample_idx: int | str) -> str:
    """Return the file name of a frame: its number in six digits, or its name."""
    return f"{sample_idx:06d}.txt" if isinstance(sample_idx, int) else f"{sample_idx}.txt"


def write_results(folder: Path, frames: Mapping[int | str, Annotation]) -> None:
    """Write predictions in KITTI's format: one file per frame, 16 fields per line, empty without predictions.

    Args:
        folder: Created if it does not exist.
        frames: Annotations by frame id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for sample_idx, annotation in frames.items():
        (folder / file_name(sample_idx)).write_text(result_text(annotation), encoding="utf-8")


def result_text(annotation: Annotation) -> str:
    """Return the predictions of a frame in KITTI's format."""
    lines = []
    for row in range(len(annotation["name"])):
        length, height, width = annotation["dimensions"][row]
        numbers = [
            annotation["alpha"][row],
            *annotation["bbox"][row],
            height,
            width,
            length,
            *annotation["location"][row],
            annotation["rotation_y"][row],
            annotation["score"][row],
        ]
        lines.append(f"{annotation['name'][row]} -1 -1 {' '.join(f'{number:.4f}' for number in numbers)}\n")
    return "".join(lines)
