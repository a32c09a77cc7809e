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
from raydet3d.visual.scene_page import Camera, PointColors, Scene

CAMERA_AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Rotation from the LiDAR's axes to a camera's, for samples without calibration."""
AXES = {
    0: np.eye(3),
    1: np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    2: np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
}
"""Rotation from the axes of a cloud (`pcd_mode`: 0 LiDAR, 1 camera, 2 depth) to the LiDAR's."""


MAX_PREDICTIONS = 500
"""Predictions of a frame on a page: those of the highest scores."""


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


def has_ground_truth(sample: PlainSample) -> bool:
    """Return whether a sample has ground-truth boxes, if only none."""
    own, held = sample.get("gt_instances_3d") or {}, sample.get("eval_ann_info") or {}
    return "bboxes_3d" in own or "gt_bboxes_3d" in held


def to_scene(
    name: str,
    data_input: Mapping[str, ArrayLike | Sequence[ArrayLike]],
    sample: PlainSample,
    *,
    mode: int,
    palette: Sequence[Color],
    draw_gt: bool,
    draw_pred: bool,
    show_pcd_rgb: bool,
    least: float,
    warn: Callable[[str], None],
) -> Scene:
    """Return a frame for a page.

    Args:
        name: Name of the frame.
        data_input: `points` and perhaps `img`.
        sample: Boxes, calibration and image files.
        mode: Axes of the points: 0 LiDAR, 1 camera, 2 depth sensor.
        palette: Colours of point classes.
        draw_gt: Whether to take the ground truth.
        draw_pred: Whether to take the predictions.
        show_pcd_rgb: Whether columns 3 to 5 of the points are colours.
        least: Minimum score of predictions.
        warn: Called with a message for an image that cannot be read.
    """
    points = lidar_points(data_input, mode)
    points = np.zeros((0, 3), np.float32) if points is None else points
    colors = [PointColors(f"class ({title})", values) for title, values in semantic_colors(sample, palette)]
    rgb = point_rgb(points) if show_pcd_rgb else None
    if rgb is not None:
        colors.append(PointColors("colour", rgb))
    elif points.shape[1] > 3:
        colors.append(PointColors("intensity", np.nan_to_num(points[:, 3])))
    predictions = predicted_boxes(sample, least) if draw_pred and sample.get("pred_instances_3d") else None
    if predictions is not None and predictions.scores is not None and len(predictions) > MAX_PREDICTIONS:
        best = np.argsort(-predictions.scores, kind="stable")[:MAX_PREDICTIONS]
        predictions = BoxSet(predictions.boxes[best], predictions.labels[best], predictions.scores[best])
    return Scene(
        name,
        points,
        ground_truth_boxes(sample) if draw_gt and has_ground_truth(sample) else None,
        predictions,
        camera_views(data_input, sample, warn),
        colors,
    )


def point_rgb(points: Array) -> Array | None:
    """Return the colours in columns 3 to 5 of a cloud (0 to 1 or 0 to 255), or None."""
    if points.shape[1] < 6:
        return None
    colors = points[:, 3:6].astype(float)
    inks: Array = np.clip(colors * (255 if colors.size and colors.max() <= 1 else 1), 0, 255).astype(np.uint8)
    return inks


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


def camera_views(
    data_input: Mapping[str, ArrayLike | Sequence[ArrayLike]], sample: PlainSample, warn: Callable[[str], None]
) -> list[Camera]:
    """Return the camera images of a frame with their projections; none without calibration.

    Args:
        data_input: May have `img`: the images of the batch.
        sample: Calibration, and `img_path`: files to read where the batch has no images.
        warn: Called with a message for a file that cannot be read.
    """
    matrices = lidar2img_matrices(sample)
    given, paths = data_input.get("img"), sample.get("img_path")
    files = [paths] if isinstance(paths, (str, Path)) else list(paths or ())
    names = _camera_names([Path(str(file)) for file in files])
    images: list[Array | None]
    if given is not None:
        parts = list(given) if isinstance(given, (list, tuple)) else [given]
        arrays = [to_array(part) for part in parts]
        arrays = [one for array in arrays for one in (array if array.ndim == 4 else [array])]
        images = [_picture(array) for array in arrays if array.ndim == 3]
    else:
        images = [_read_image(file, warn) for file in files] if matrices else []
    names = names if len(names) == len(images) else [f"camera {i + 1}" for i in range(len(images))]
    known = zip(names, images, matrices, strict=False)
    return [Camera(name, image, matrix) for name, image, matrix in known if image is not None]


def _read_image(path: str | Path, warn: Callable[[str], None]) -> Array | None:
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return None
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except OSError as error:
        warn(f"{path} cannot be read as an image ({error}); frames are drawn without it")
        return None


def _camera_names(paths: Sequence[Path]) -> list[str]:
    """Return names of cameras: the folders of their images if these differ, else the files."""
    folders = [path.parent.name for path in paths]
    return folders if len(set(folders)) == len(paths) > 1 else [path.name for path in paths]


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
