"""Read from a data sample what is drawn: boxes in the LiDAR's frame, point colours, camera images and projections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from raydet3d.structures import Box3DMode, Boxes3D, Det3DDataSample
from raydet3d.structures.sample_types import ArrayLike, CameraMatrices, PlainSample
from raydet3d.visual.bev import BoxSet
from raydet3d.visual.canvas import Array, Color, to_array

CAMERA_AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Rotation from the LiDAR's axes to a camera's, for samples without calibration."""
AXES = {
    0: np.eye(3),
    1: np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    2: np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
}
"""Rotation from the axes of a cloud (`pcd_mode`: 0 LiDAR, 1 camera, 2 depth) to the LiDAR's."""


def to_plain(data_sample: Det3DDataSample | Mapping[str, Any] | None) -> PlainSample:
    """Return a data sample as nested dicts."""
    if data_sample is None:
        return {}
    return cast(PlainSample, data_sample if isinstance(data_sample, Mapping) else data_sample.to_dict())


def ground_truth_boxes(sample: PlainSample) -> BoxSet:
    """Return the ground truth of a training or validation frame."""
    own = sample.get("gt_instances_3d") or {}
    if "bboxes_3d" in own:
        return box_set(own["bboxes_3d"], own["labels_3d"], sample)
    held = sample.get("eval_ann_info") or {}
    if "gt_bboxes_3d" in held:
        return box_set(held["gt_bboxes_3d"], held["gt_labels_3d"], sample)
    return BoxSet()


def predicted_boxes(sample: PlainSample, least: float) -> BoxSet:
    """Return predictions with a score of at least `least`."""
    own = sample.get("pred_instances_3d") or {}
    if "bboxes_3d" not in own:
        return BoxSet(scores=np.zeros(0))
    scores = to_array(own["scores_3d"])
    return box_set(own["bboxes_3d"], own["labels_3d"], sample, scores=scores, least=least)


def box_set(
    boxes: Boxes3D | ArrayLike,
    labels: ArrayLike,
    sample: CameraMatrices,
    *,
    scores: Array | None = None,
    least: float = 0.0,
) -> BoxSet:
    """Convert boxes to the LiDAR's frame; drop those that are not finite or score below `least`.

    Args:
        boxes: (K, 7+) array in the LiDAR's frame, or boxes of any frame.
        labels: (K,) class numbers.
        sample: Its `lidar2cam` converts camera boxes.
        scores: (K,) of predictions.
        least: Minimum score.
    """
    numbers = to_array(labels).astype(int)
    if isinstance(boxes, Boxes3D):
        boxes = boxes.to("cpu")
        if boxes.mode != Box3DMode.LIDAR:
            lidar2cam = _first(sample.get("lidar2cam")) if boxes.mode == Box3DMode.CAM else None
            matrix = None if lidar2cam is None else np.linalg.inv(_square(lidar2cam))
            boxes = boxes.convert_to(Box3DMode.LIDAR, matrix)
        boxes = boxes.tensor
    rows = to_array(boxes)
    rows = rows.reshape(len(numbers), rows.shape[1] if rows.ndim > 1 else 7)[:, :7]  # K may be 0
    keep = np.isfinite(rows).all(1)
    if scores is not None:
        keep &= scores >= least
    return BoxSet(rows[keep], numbers[keep], None if scores is None else scores[keep])


def lidar_points(data_input: Mapping[str, ArrayLike | Sequence[ArrayLike]], mode: int = 0) -> Array | None:
    """Return the cloud in the LiDAR's axes, (N, 3+), or None."""
    given = data_input.get("points")
    if given is None:
        return None
    points = to_array(getattr(given, "tensor", given))
    return points if mode == 0 else np.concatenate([points[:, :3] @ AXES[mode].T, points[:, 3:]], 1)


def semantic_colors(sample: PlainSample, palette: Sequence[Color]) -> list[tuple[str, Array]]:
    """Return (title, (N, 3) colours) of points by class for ground truth and predictions that the sample has."""
    held = sample.get("gt_pts_seg") or sample.get("eval_ann_info") or {}
    found = sample.get("pred_pts_seg") or {}
    out = []
    for title, holder in (("ground truth", held), ("predictions", found)):
        labels = holder.get("pts_semantic_mask")
        if labels is not None:
            numbers = to_array(labels).astype(int)
            table = np.array([*palette, (70, 74, 84)], np.uint8)  # ignored classes are gray
            known = (numbers >= 0) & (numbers < len(palette))
            out.append((title, table[np.where(known, numbers, len(palette))]))
    return out


def lidar2img_matrices(sample: CameraMatrices) -> list[Array]:
    """Return one (3, 4) or (4, 4) projection from LiDAR to image per camera; empty without calibration."""
    if sample.get("lidar2img") is not None:
        return _matrices(sample["lidar2img"])
    if sample.get("cam2img") is None:
        return []
    inner = _matrices(sample["cam2img"])
    outer = _matrices(sample["lidar2cam"]) if sample.get("lidar2cam") is not None else [CAMERA_AXES] * len(inner)
    return [_square(a) @ _square(b) for a, b in zip(inner, outer, strict=False)]


def camera_images(
    data_input: Mapping[str, ArrayLike | Sequence[ArrayLike]], sample: PlainSample, warn: Callable[[str], None]
) -> list[Array]:
    """Return the camera images of a frame: those of the batch, else those in the files that the sample names.

    Args:
        data_input: May have `img`.
        sample: May have `img_path`.
        warn: Called with a message for a file that cannot be read.
    """
    given = data_input.get("img")
    if given is not None:
        parts = list(given) if isinstance(given, (list, tuple)) else [given]
        arrays = [to_array(part) for part in parts]
        arrays = [one for array in arrays for one in (array if array.ndim == 4 else [array])]
        return [_picture(array) for array in arrays if array.ndim == 3]
    paths = sample.get("img_path")
    found = []
    for path in paths if isinstance(paths, (list, tuple)) else [paths]:
        if not isinstance(path, (str, Path)) or not Path(path).is_file():
            continue
        try:
            with Image.open(path) as file:
                found.append(np.asarray(file.convert("RGB")))
        except OSError as error:
            warn(f"{path} cannot be read as an image ({error}); frames are drawn without it")
    return found


def _picture(image: Array) -> Array:
    image = image.transpose(1, 2, 0) if image.shape[0] == 3 and image.shape[-1] != 3 else image
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))


def _matrices(given: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
    """Return one matrix or several as a list."""
    if isinstance(given, (list, tuple)) and len(given) and np.ndim(to_array(given[0])) == 2:
        return [to_array(matrix) for matrix in given]
    array = to_array(given)
    return [array] if array.ndim == 2 else list(array) if array.ndim == 3 else []


def _first(given: ArrayLike | Sequence[ArrayLike] | None) -> Array | None:
    matrices = [] if given is None else _matrices(given)
    return matrices[0] if matrices else None


def _square(matrix: ArrayLike) -> Array:
    """Return a matrix padded to 4x4."""
    given = to_array(matrix)
    out = np.eye(4)
    out[: given.shape[0], : given.shape[1]] = given
    return out
