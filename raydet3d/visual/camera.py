"""Draw 3D boxes and points on camera images; edges are clipped at the near plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from raydet3d.ops.points import box_corners
from raydet3d.visual.bev import PALETTE, BoxSet
from raydet3d.visual.canvas import SMOOTH, Array, Color, color_scale, draw_smoothly

# Corners are ordered x slowest, then y0 z0, y0 z1, y1 z1, y1 z0: 0-3 behind, 4-7 in front.
EDGES = np.array(
    [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7), (4, 6), (5, 7)]
)
"""The twelve edges and a cross on the front."""
DEPTHS = np.array([(255, 96, 48), (250, 225, 80), (70, 200, 230), (60, 90, 220)], float)
"""Point colours from near to far."""
NEAR = 0.3
"""Distance of the near plane from the camera in metres."""


def draw_boxes_on_image(
    image: Array,
    ground_truth: BoxSet,
    predictions: BoxSet,
    *,
    lidar2img: Array,
    palette: Sequence[Color] = PALETTE,
    line_width: int = 2,
    width: int | None = None,
) -> Array:
    """Draw 3D boxes on an image.

    Args:
        image: (H, W, 3) uint8 image.
        ground_truth: Ground truth in the LiDAR's frame, drawn in green.
        predictions: Predictions in the LiDAR's frame, drawn in the colours of their classes.
        lidar2img: (3, 4) or (4, 4) projection.
        palette: Colours by label.
        line_width: Line width in pixels of the result.
        width: Width of the result; the image's own by default.

    Returns:
        (H', W', 3) picture.
    """
    picture = Image.fromarray(image)
    scale = 1.0 if width is None else width / picture.width
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.LANCZOS) if size != picture.size else picture

    def draw(layer: ImageDraw.ImageDraw) -> None:
        for marks in (ground_truth, predictions):
            for i, edges in enumerate(project_edges(marks.boxes, lidar2img)):
                for number, edge in enumerate(edges * scale * SMOOTH):
                    if np.isfinite(edge).all():
                        is_cross = number >= 12
                        thick = max(1, round(line_width * SMOOTH * (0.4 if is_cross else 1)))
                        ink = (*marks.color(i, palette), 150 if is_cross else 255)
                        layer.line([tuple(end) for end in edge], fill=ink, width=thick)

    return np.asarray(draw_smoothly(picture, draw))


def project_edges(boxes: Array, lidar2img: Array) -> Array:
    """Project the edges of boxes to pixels.

    Args:
        boxes: (K, 7) boxes in the LiDAR's frame.
        lidar2img: (3, 4) or (4, 4) projection.

    Returns:
        (K, 14, 2, 2) ends of the twelve edges and the cross on the front; NaN behind the camera.
    """
    corners = box_corners(np.asarray(boxes, float)[:, :7])  # (K, 8, 3)
    matrix = np.asarray(lidar2img, float)[:3]
    homogeneous = corners @ matrix[:, :3].T + matrix[:, 3]
    first, second = homogeneous[:, EDGES[:, 0]], homogeneous[:, EDGES[:, 1]]  # (K, 14, 3)
    depth = np.stack([first[..., 2], second[..., 2]], -1)
    is_seen = (depth > NEAR).any(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = (NEAR - depth[..., 0]) / (depth[..., 1] - depth[..., 0])
        crossing = first + cut[..., None] * (second - first)
        ends = np.stack(
            [
                np.where(depth[..., :1] > NEAR, first, crossing),
                np.where(depth[..., 1:] > NEAR, second, crossing),
            ],
            -2,
        )
        pixels = ends[..., :2] / ends[..., 2:]
    pixels[~is_seen] = np.nan
    clipped: Array = np.clip(pixels, -1e5, 1e5)
    return clipped


def draw_points_on_image(image: Array, points: Array, lidar2img: Array, *, size: float, max_depth: float) -> Array:
    """Draw points on an image, coloured by depth: red near, blue far.

    Args:
        image: (H, W, 3) uint8 picture.
        points: (N, 3) points.
        lidar2img: (3, 4) or (4, 4) projection.
        size: Point size in pixels.
        max_depth: Depth in metres at which colours saturate.
    """
    matrix = np.asarray(lidar2img, float)[:3]
    homogeneous = points @ matrix[:, :3].T + matrix[:, 3]
    seen = np.isfinite(homogeneous).all(1) & (homogeneous[:, 2] > NEAR)
    depth = homogeneous[seen, 2]
    pixels = homogeneous[seen, :2] / depth[:, None]
    order = np.argsort(-depth, kind="stable")  # draw near points last
    inks = color_scale(depth[order] / max_depth, DEPTHS).astype(np.uint8)
    out = np.array(image)
    reach = max(1, round(size))
    place = np.round(pixels[order]).astype(int)
    for right in range(-(reach // 2), reach - reach // 2):
        for down in range(-(reach // 2), reach - reach // 2):
            column, row = place[:, 0] + right, place[:, 1] + down
            inside = (column >= 0) & (row >= 0) & (column < out.shape[1]) & (row < out.shape[0])
            out[row[inside], column[inside]] = inks[inside]
    return out
