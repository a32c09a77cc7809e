"""Write frames as a 3D page: one HTML file with points, boxes and camera images, drawn by `scene.js` with WebGL.

Points are stored as differences of 16-bit positions, split into byte planes and compressed: 4 to 6 bytes a point in
the file. Legend: N points · P predictions · G ground-truth boxes · K boxes.
"""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from raydet3d.files import write_atomic
from raydet3d.ops.points import points_in_boxes
from raydet3d.visual.bev import FARTHEST_M, PALETTE, BoxSet
from raydet3d.visual.canvas import Array, Color
from raydet3d.visual.html_page import Json, html_page, json_script, read_asset
from raydet3d.visual.matching import DEFAULT_RULE, MatchRule, match_boxes

STEP_M = 0.005
"""Smallest step of stored positions: a quarter of a LiDAR's noise."""
MAX_POINTS = 250_000
"""Points of a frame; of a larger one every second, third, ... point is stored, and the page says so."""
IMAGE_WIDTH = 960
"""Maximum width of stored camera images in pixels."""
COMPARED = ("true", "false", "miss", "truth")
KINDS = (*COMPARED, "found", "pasted")
"""Kinds of boxes in the order of the legend: true and false positives, missed and detected (or all) ground truth,
predictions without ground truth, pasted objects."""


@dataclass(frozen=True)
class Camera:
    """A camera image.

    Args:
        name: Name to show.
        image: (H, W, 3) uint8.
        lidar2img: (3, 4) or (4, 4) projection to its pixels.
    """

    name: str
    image: Array
    lidar2img: Array


@dataclass(frozen=True)
class PointColors:
    """A way to colour the points.

    Args:
        name: Name to show.
        values: (N, 3) uint8 colours, or (N,) numbers from low to high.
    """

    name: str
    values: Array


@dataclass(frozen=True)
class Scene:
    """A frame to show.

    Args:
        name: Name of the frame.
        points: (N, 3+) points in the LiDAR's frame.
        ground_truth: Ground truth; None if it is unknown.
        predictions: Predictions with scores; None without a model.
        cameras: Camera images.
        colors: Ways to colour the points besides height.
        pasted: (G,) which ground-truth boxes were pasted by an augmentation.
    """

    name: str
    points: Array
    ground_truth: BoxSet | None = None
    predictions: BoxSet | None = None
    cameras: Sequence[Camera] = ()
    colors: Sequence[PointColors] = ()
    pasted: Array | None = None


@dataclass(frozen=True)
class PackedScene:
    """A frame as the page stores it.

    Args:
        name: Name of the frame.
        misses: Missed objects.
        false_positives: False positives.
        kinds: Kinds of boxes that the frame may show, keys of `KINDS`.
        data: Frame as JSON.
    """

    name: str
    misses: int
    false_positives: int
    kinds: frozenset[str]
    data: dict[str, Json] = field(repr=False)


def pack_scene(scene: Scene, *, rule: MatchRule, score_thr: float) -> PackedScene:
    """Match and compress a frame.

    Args:
        scene: The frame.
        rule: When a prediction detects an object.
        score_thr: Minimum score of predictions that count as false positives.
    """
    truth, found = scene.ground_truth or BoxSet(), scene.predictions or BoxSet(scores=np.zeros(0))
    compared = scene.ground_truth is not None and scene.predictions is not None
    matches = match_boxes(truth, found, rule)
    scores = found.scores if found.scores is not None else np.zeros(len(found))
    misses, false_positives = matches.count_errors(scores, score_thr) if compared else (0, 0)
    points = scene.points[:, :3]
    inside = points_in_boxes(points, np.concatenate([truth.boxes, found.boxes]).astype(points.dtype)).sum(0)
    pasted = scene.pasted if scene.pasted is not None else np.zeros(len(truth), bool)
    alone = {"truth": scene.ground_truth is not None, "found": scene.predictions is not None}
    kinds = set(COMPARED) if compared else {kind for kind, is_known in alone.items() if is_known}
    kinds |= {"pasted"} if scene.pasted is not None else set()
    data: dict[str, Json] = {
        "name": scene.name,
        "compared": compared,
        "points": _pack_points(scene),
        "truth": [
            {**_box(truth, i), "points": int(inside[i]), "iou": _short(matches.best_iou[i]), "pasted": bool(pasted[i])}
            for i in range(len(truth))
        ],
        "found": [
            {
                **_box(found, i),
                "points": int(inside[len(truth) + i]),
                "iou": _short(matches.iou[i]),
                "score": _short(scores[i], 4),
                "match": int(matches.truth_of[i]),
            }
            for i in range(len(found))
        ],
        "cameras": [_pack_camera(camera) for camera in scene.cameras],
    }
    return PackedScene(scene.name, misses, false_positives, frozenset(kinds), data)


def worst_first(scenes: Sequence[PackedScene]) -> list[PackedScene]:
    """Sort by the number of misses and false positives, greatest first; equal ones by name."""
    return sorted(scenes, key=lambda scene: (-scene.misses - scene.false_positives, scene.name))


def write_scene_page(
    path: str | Path,
    scenes: Sequence[PackedScene],
    *,
    title: str,
    classes: Sequence[str] = (),
    palette: Sequence[Color] = PALETTE,
    rule: MatchRule = DEFAULT_RULE,
    score_thr: float = 0.3,
    notes: str = "",
) -> Path:
    """Write a page.

    Args:
        path: File to write.
        scenes: Frames; the page shows them worst first.
        title: Title.
        classes: Class names by label.
        palette: Class colours by label; repeated where there are more classes.
        rule: Rule that the frames were matched by.
        score_thr: Initial minimum score of the predictions to show.
        notes: HTML below the title's line, such as tables; folded by default.

    Returns:
        The file.
    """
    scenes = worst_first(scenes)
    body = read_asset("scene.html").replace("{{notes}}", notes)
    kinds = frozenset[str]().union(*(scene.kinds for scene in scenes))
    page: dict[str, Json] = {
        "title": title,
        "classes": list(classes),
        "palette": [[int(value) for value in color] for color in palette],
        "rule": str(rule),
        "score": score_thr,
        "kinds": [kind for kind in KINDS if kind in kinds],
        "compared": "miss" in kinds,
        "images": any(bool(scene.data["cameras"]) for scene in scenes),
        "frames": [{"name": scene.name, "misses": scene.misses, "falses": scene.false_positives} for scene in scenes],
    }
    data = [json_script("page", page), *(json_script(f"frame-{i}", scene.data) for i, scene in enumerate(scenes))]
    script = read_asset("scene_view.js") + read_asset("scene.js")
    text = html_page(title, "\n".join([body, *data]), style=read_asset("scene.css"), script=script)
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text.encode())
    return file


def _box(boxes: BoxSet, index: int) -> dict[str, Json]:
    return {"box": [_short(value) for value in boxes.boxes[index, :7]], "label": int(boxes.labels[index])}


def _short(value: float, digits: int = 3) -> float:
    return round(float(value), digits)


def _pack_points(scene: Scene) -> dict[str, Json]:
    """Compress the points: three planes of position differences, then a plane for each byte of each colouring."""
    points = np.asarray(scene.points[:, :3], np.float64)
    whole = np.flatnonzero(np.isfinite(points).all(1) & (np.abs(points) <= FARTHEST_M).all(1))
    every = max(1, -(-len(whole) // MAX_POINTS))
    kept = whole[::every]
    points = points[kept]
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(3), np.zeros(3))
    step = max(STEP_M, float((high - low).max()) / 65535)
    places = np.round((points - low) / step).astype(np.uint16)
    changes = np.diff(places, axis=0, prepend=np.zeros((1, 3), np.uint16)).T  # modulo 2 ** 16
    planes = [plane for axis in changes for plane in (axis & 0xFF, axis >> 8)]
    colors: list[Json] = []
    for paint in scene.colors:
        values = np.asarray(paint.values)[kept]
        if values.ndim == 1:
            top = float(np.quantile(values, 0.99)) if len(values) else 1.0
            bottom = float(values.min()) if len(values) else 0.0
            values = np.clip((values - bottom) / max(top - bottom, 1e-6) * 255, 0, 255)[:, None]
        planes += list(values.T)
        colors.append({"name": paint.name, "channels": values.shape[1]})
    packed = gzip.compress(np.concatenate([plane.astype(np.uint8) for plane in planes]).tobytes(), 6, mtime=0)
    z = points[:, 2] if len(points) else np.zeros(1)
    limits = [*np.quantile(points[:, :2], [0.02, 0.98], axis=0).T] if len(points) else [(0.0, 40.0), (-20.0, 20.0)]
    return {
        "count": len(points),
        "of": len(scene.points),
        "step": step,
        "low": [_short(value, 4) for value in low],
        "heights": [_short(value) for value in np.quantile(z, [0.01, 0.05, 0.98])],
        "extent": [[_short(value, 2) for value in pair] for pair in limits],
        "colors": colors,
        "data": base64.b64encode(packed).decode(),
    }


def _pack_camera(camera: Camera) -> dict[str, Json]:
    """Reduce an image and store it as JPEG, with the projection to its pixels."""
    picture = Image.fromarray(camera.image)
    scale = min(1.0, IMAGE_WIDTH / picture.width)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BOX) if scale < 1 else picture
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    matrix = np.asarray(camera.lidar2img, np.float64)[:3].copy()
    # Pixel centres lie at whole numbers plus a half in the reduced image too.
    matrix[0] = (matrix[0] + 0.5 * matrix[2]) * (size[0] / camera.image.shape[1]) - 0.5 * matrix[2]
    matrix[1] = (matrix[1] + 0.5 * matrix[2]) * (size[1] / camera.image.shape[0]) - 0.5 * matrix[2]
    return {
        "name": camera.name,
        "size": [size[0], size[1]],
        "matrix": [[_short(value, 5) for value in row] for row in matrix],
        "jpeg": base64.b64encode(stream.getvalue()).decode(),
    }
