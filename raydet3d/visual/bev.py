"""Draw a bird's-eye view of a point cloud, ground truth and predictions with numpy and Pillow.

Forward (x) is up and left (y) is left. Lines are drawn at twice the size and reduced (antialiasing).
Legend: N points · K boxes; images are (H, W, 3) uint8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raydet3d.ops.points import bev_corners
from raydet3d.visual.canvas import SMOOTH, Array, Color, color_scale, draw_smoothly

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BACKGROUND: Color = (16, 18, 24)
GRID: Color = (44, 48, 58)
TEXT: Color = (222, 226, 232)
DIM: Color = (128, 136, 150)
GROUND_TRUTH_COLOR: Color = (70, 220, 110)
# Class colours by label; green is reserved for ground truth.
PALETTE: tuple[Color, ...] = (
    (255, 105, 205),
    (70, 205, 250),
    (255, 165, 45),
    (250, 235, 90),
    (180, 150, 255),
    (255, 95, 85),
    (120, 160, 255),
    (235, 235, 235),
    (200, 140, 95),
    (150, 240, 230),
)
# Point colours from low to high: muted, so that boxes stand out.
HEIGHTS = np.array([(52, 70, 122), (70, 108, 166), (112, 150, 184), (180, 200, 210), (246, 244, 232)], float)
MARGIN = 28
FARTHEST_M = 500.0
"""Boxes beyond this distance do not enlarge the view: diverging models predict boxes of any size."""


@dataclass(frozen=True)
class BoxSet:
    """Boxes to draw, in the LiDAR's frame.

    Args:
        boxes: (K, 7) x, y, z, dx, dy, dz, yaw in the LiDAR's frame.
        labels: (K,) class numbers.
        scores: (K,) scores of predictions; None for ground truth.
    """

    boxes: Array = field(default_factory=lambda: np.zeros((0, 7), np.float32))
    labels: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    scores: Array | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def color(self, index: int, palette: Sequence[Color]) -> Color:
        """Return the colour of a box: green for ground truth, else that of its class."""
        return GROUND_TRUTH_COLOR if self.scores is None else palette[int(self.labels[index]) % len(palette)]


@dataclass(frozen=True)
class View:
    """A rectangle of the ground plane and its scale.

    Args:
        x: Minimum and maximum x in metres.
        y: Minimum and maximum y in metres.
        scale: Pixels per metre.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels."""
        return math.ceil((self.y[1] - self.y[0]) * self.scale), math.ceil((self.x[1] - self.x[0]) * self.scale)

    def pixels(self, xy: Array) -> Array:
        """Return columns and rows of (..., 2) ground positions."""
        return np.stack([self.y[1] - xy[..., 1], self.x[1] - xy[..., 0]], -1) * self.scale


def find_view(
    points: Array, boxes: Array, *, limits: Sequence[float] | None = None, pixels: int = 1200, max_scale: float = 28.0
) -> View:
    """Choose a view that contains the boxes and all but the farthest points.

    Args:
        points: (N, 3+) cloud.
        boxes: (K, 7) boxes.
        limits: x0, y0, (z0,) x1, y1 (, z1) of the view, instead of the data's.
        pixels: Longer side of the image.
        max_scale: Maximum pixels per metre, for small scenes.
    """
    if limits is not None:
        half = len(limits) // 2
        low, high = np.array(limits[:2], float), np.array(limits[half : half + 2], float)
    else:
        parts = []
        points = points[np.isfinite(points[:, :2]).all(1)]
        if len(points):
            parts.append(np.quantile(points[:, :2], [0.002, 0.998], axis=0))
        if len(boxes):
            parts.append(bev_corners(boxes[:, [0, 1, 3, 4, 6]]).reshape(-1, 2))
        ground = np.concatenate(parts) if parts else np.array([[0.0, -20.0], [40.0, 20.0]])
        ground = np.clip(ground, -FARTHEST_M, FARTHEST_M)
        # Round to 2 m, so that frames of a drive share a view; include a near sensor; limit the aspect ratio.
        low, high = np.floor((ground.min(0) - 1) / 2) * 2, np.ceil((ground.max(0) + 1) / 2) * 2
        if (low < 10).all() and (high > -10).all():
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        lack = np.maximum(np.maximum(0.7 * (high - low).max(), 16) - (high - low), 0) / 2
        low, high = low - lack, high + lack
    scale = min(pixels / float((high - low).max()), max_scale)
    return View((float(low[0]), float(high[0])), (float(low[1]), float(high[1])), scale)


def draw_bev(
    points: Array,
    ground_truth: BoxSet,
    predictions: BoxSet,
    *,
    view: View,
    classes: Sequence[str] = (),
    palette: Sequence[Color] = PALETTE,
    title: str = "",
    line_width: int = 3,
    colors: Array | None = None,
    legend: Sequence[tuple[str, Color | None]] | None = None,
    point_size: int | None = None,
    fill: float = 0.8,
    axes: tuple[Sequence[float], float] | None = None,
) -> Array:
    """Draw a frame as a bird's-eye view.

    Args:
        points: (N, 3+) cloud in the LiDAR's frame.
        ground_truth: Ground truth, drawn in green.
        predictions: Predictions, drawn in the colours of their classes.
        view: Part of the ground to show.
        classes: Class names by label.
        palette: Colours by label; repeated where there are more classes.
        title: Title.
        line_width: Width of box outlines in pixels.
        colors: (N, 3) uint8 colours of the points; by default by height.
        legend: (text, colour) pairs; by default ground truth and classes with their counts.
        point_size: Width of a point in pixels; by default 1 to 3, depending on the scale.
        fill: Strength of the filling of ground-truth boxes, 0 to 1.
        axes: Origin and length in metres of coordinate axes to draw, x in red and y in green.

    Returns:
        (H, W, 3) image.
    """
    heights = height_range(points)
    canvas = _grid(view)
    inks = height_colors(np.nan_to_num(points[:, 2]), heights) if colors is None else colors
    _add_points(canvas, points, view, inks, point_size)
    picture = Image.fromarray(canvas)
    picture = _add_boxes(picture, ground_truth, predictions, view, palette, line_width, round(57.5 * fill))
    draw = ImageDraw.Draw(picture)
    if axes is not None:
        _draw_axes(draw, view, axes[0], axes[1], max(2, line_width))
    _grid_labels(draw, view)
    if predictions.scores is not None:
        _score_labels(draw, predictions, view, palette)
    shown = heights if colors is None else None
    entries = list(legend) if legend is not None else _legend(ground_truth, predictions, classes, palette)
    return np.concatenate([_header(view, entries, title, shown), np.asarray(picture)])


def _draw_axes(draw: ImageDraw.ImageDraw, view: View, origin: Sequence[float], length: float, width: int) -> None:
    """Draw the axes of x in red and of y in green."""
    for axis, color in enumerate(((255, 0, 0), (0, 255, 0))):
        ends = np.repeat(np.asarray(origin, float)[None, :2], 2, 0)
        ends[1, axis] += length
        draw.line([tuple(end) for end in view.pixels(ends)], fill=color, width=width)


def _grid(view: View) -> Array:
    """Return the background with grid lines at round metres."""
    width, height = view.size
    canvas = np.array(Image.new("RGB", (width, height), BACKGROUND))
    for x in _ticks(view.x, view):
        canvas[min(int((view.x[1] - x) * view.scale), height - 1)] = GRID
    for y in _ticks(view.y, view):
        canvas[:, min(int((view.y[1] - y) * view.scale), width - 1)] = GRID
    return canvas


def _ticks(interval: tuple[float, float], view: View) -> list[float]:
    """Return round metres inside an interval, at least 60 pixels apart."""
    step = next((s for s in (1, 2, 5, 10, 20, 50) if s * view.scale >= 60), 100)
    first = math.ceil(interval[0] / step)
    return [step * k for k in range(first, math.floor(interval[1] / step) + 1)]


def _grid_labels(draw: ImageDraw.ImageDraw, view: View) -> None:
    """Draw metres along the left and bottom edges, and the sensor."""
    width, height = view.size
    font = _font(13)
    for x in _ticks(view.x, view):
        row = (view.x[1] - x) * view.scale
        if 30 < row < height - 24:
            draw.text((4, row), f"{x:g}", fill=DIM, font=font, anchor="ls")
    column, row = view.pixels(np.zeros(2))
    is_low = height - 40 < row < height + 1  # the sensor's mark covers the label of y = 0
    for y in _ticks(view.y, view):
        column = (view.y[1] - y) * view.scale
        if 24 < column < width - 70 and not (is_low and y == 0):
            draw.text((column + 4, height - 4), f"{y:g}", fill=DIM, font=font, anchor="ls")
    draw.text((width - 6, height - 4), "y [m]", fill=DIM, font=font, anchor="rs")
    draw.text((4, 4), "x [m]", fill=DIM, font=font, anchor="lt")
    if view.x[0] <= 0 <= view.x[1] and view.y[0] <= 0 <= view.y[1]:
        column, row = view.pixels(np.zeros(2))
        row = min(row, height - 1)
        draw.polygon([(column, row - 16), (column - 8, row), (column + 8, row)], fill=TEXT)


def height_range(points: Array) -> tuple[float, float]:
    """Return the heights between which colours vary: the 1st and 98th percentile."""
    z = points[:, 2][np.isfinite(points[:, 2])] if len(points) else np.zeros(0)
    low, high = np.quantile(z, [0.01, 0.98]) if len(z) else (-2.0, 1.0)
    return float(low), float(max(high, low + 1.0))


def height_colors(z: Array, heights: tuple[float, float]) -> Array:
    """Return (N, 3) uint8 colours of (N,) heights."""
    return color_scale((z - heights[0]) / (heights[1] - heights[0]), HEIGHTS).astype(np.uint8)


def _add_points(canvas: Array, points: Array, view: View, colors: Array, size: int | None) -> None:
    """Draw the points on the canvas, high ones last, as square dots of a size in pixels."""
    whole = np.isfinite(points[:, :3]).all(1)
    points, colors = points[whole], colors[whole]
    order = np.argsort(points[:, 2], kind="stable")
    points, colors = points[order], colors[order]
    place = np.floor(view.pixels(points[:, :2])).astype(int)
    inside = ((place >= 0) & (place < np.array(view.size))).all(1)
    place, colors = place[inside], colors[inside]
    width, height = view.size
    dot = range(size if size is not None else 1 if view.scale < 8 else 2 if view.scale < 20 else 3)
    shown = np.full(width * height, -1, np.int32)  # number of the point that each pixel shows: quicker than its colour
    numbers = np.arange(len(place), dtype=np.int32)
    column, row = place.T
    for right in dot:
        for down in dot:
            shown[np.minimum(row + down, height - 1) * width + np.minimum(column + right, width - 1)] = numbers
    covered = np.flatnonzero(shown >= 0)
    canvas.reshape(-1, 3)[covered] = colors[shown[covered]]


def _add_boxes(
    picture: Image.Image,
    ground_truth: BoxSet,
    predictions: BoxSet,
    view: View,
    palette: Sequence[Color],
    line_width: int,
    opacity: int,
) -> Image.Image:
    """Draw outlines with a heading tick; ground truth is filled with an opacity from 0 to 255."""
    width = max(1, round(line_width * SMOOTH * 0.75))

    def draw(layer: ImageDraw.ImageDraw) -> None:
        # A wider ground truth stays visible below a prediction.
        for marks, thick in ((ground_truth, width + 2 * SMOOTH), (predictions, width)):
            for i, (outline, tick) in enumerate(zip(*_outlines(marks.boxes, view), strict=True)):
                color = marks.color(i, palette)
                corners = [tuple(corner) for corner in outline * SMOOTH]
                layer.polygon(corners, fill=(*color, opacity) if marks.scores is None else None)
                layer.line([*corners, corners[0], corners[1]], fill=(*color, 255), width=thick, joint="curve")
                layer.line([tuple(end) for end in tick * SMOOTH], fill=(*color, 255), width=thick)

    return draw_smoothly(picture, draw)


def _outlines(boxes: Array, view: View) -> tuple[Array, Array]:
    """Return pixels of corners, (K, 4, 2), and of heading ticks, (K, 2, 2)."""
    boxes = np.asarray(boxes, float)
    ahead = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1)
    ends = np.stack([boxes[:, :2], boxes[:, :2] + ahead * (boxes[:, 3:4] / 2 + 0.6)], 1)
    return view.pixels(bev_corners(boxes[:, [0, 1, 3, 4, 6]])), view.pixels(ends)


def _score_labels(draw: ImageDraw.ImageDraw, predictions: BoxSet, view: View, palette: Sequence[Color]) -> None:
    """Draw scores beside the boxes where they overlap least, highest score first."""
    assert predictions.scores is not None
    width, height = view.size
    font = _font(14)
    outlines, _ = _outlines(predictions.boxes, view)
    low, high = outlines.min(1), outlines.max(1)  # (K, 2)
    taken: list[tuple[float, float, float, float]] = []
    for i in np.argsort(-predictions.scores, kind="stable"):
        text = f"{predictions.scores[i]:.2f}"
        text_width, text_height = draw.textlength(text, font=font) + 6, 17.0
        middle = (low[i] + high[i]) / 2
        places = [
            (high[i, 0] + 3, middle[1] - text_height / 2),
            (low[i, 0] - text_width - 3, middle[1] - text_height / 2),
            (middle[0] - text_width / 2, low[i, 1] - text_height - 3),
            (middle[0] - text_width / 2, high[i, 1] + 3),
            (high[i, 0] + 3, low[i, 1] - text_height),
            (low[i, 0] - text_width - 3, high[i, 1]),
        ]
        spots = [(x, y, x + text_width, y + text_height) for x, y in places]
        costs = []
        for spot in spots:
            others = np.arange(len(low)) != i
            on_boxes = _covers(spot, low[others], high[others]).sum()
            on_texts = sum(_meet(spot, other) for other in taken)
            off = spot[0] < 0 or spot[1] < 0 or spot[2] > width or spot[3] > height
            costs.append(on_boxes + 3 * on_texts + 10 * off)
        spot = spots[int(np.argmin(costs))]
        taken.append(spot)
        draw.rounded_rectangle(spot, 4, fill=(10, 11, 15))
        color = predictions.color(i, palette)
        draw.text((spot[0] + 3, (spot[1] + spot[3]) / 2), text, fill=color, font=font, anchor="lm")


def _covers(spot: tuple[float, float, float, float], low: Array, high: Array) -> Array:
    return (low[:, 0] < spot[2]) & (high[:, 0] > spot[0]) & (low[:, 1] < spot[3]) & (high[:, 1] > spot[1])


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(
    ground_truth: BoxSet, predictions: BoxSet, classes: Sequence[str], palette: Sequence[Color]
) -> list[tuple[str, Color | None]]:
    """Return the legend: texts with counts, and colours."""
    entries: list[tuple[str, Color | None]] = []
    if ground_truth.boxes.shape[0] or predictions.scores is None:
        entries.append((f"ground truth {len(ground_truth)}", GROUND_TRUTH_COLOR))
    if predictions.scores is not None:
        entries.append(("predictions", None))
        used = sorted({int(label) for label in predictions.labels} | set(range(min(len(classes), 6))))
        for label in used:
            name = classes[label] if label < len(classes) else f"class {label}"
            entries.append((f"{name} {int((predictions.labels == label).sum())}", palette[label % len(palette)]))
    return entries


def _header(
    view: View, entries: Sequence[tuple[str, Color | None]], title: str, heights: tuple[float, float] | None
) -> Array:
    """Draw title, legend and height scale."""
    width = view.size[0]
    big, small = _font(20), _font(15)
    bar = 150
    rows: list[list[tuple[str, Color | None, float]]] = [[]]
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = 12.0
    for text, color in entries:
        step = probe.textlength(text, font=small) + (22 + 18 if color is not None else 12)
        if rows[-1] and left + step > width - (bar + 120 if len(rows) == 1 else 12):
            rows.append([])
            left = 12.0
        rows[-1].append((text, color, left))
        left += step
    picture = Image.new("RGB", (width, 40 + MARGIN * len(rows)), (26, 29, 37))
    draw = ImageDraw.Draw(picture)
    draw.text((12, 20), _shorten(title, big, width - 24), fill=TEXT, font=big, anchor="lm")
    for number, row in enumerate(rows):
        middle = 40 + MARGIN * number + 12
        for text, color, left in row:
            if color is None:
                draw.text((left, middle), text, fill=DIM, font=small, anchor="lm")
                continue
            draw.rectangle((left, middle - 7, left + 15, middle + 7), outline=color, width=3)
            draw.text((left + 22, middle), text, fill=TEXT, font=small, anchor="lm")
    if width > 520 and heights is not None:
        middle = 40 + 12
        right = width - 60
        ramp = height_colors(np.linspace(*heights, bar), heights)
        picture.paste(Image.fromarray(np.repeat(ramp[None], 12, 0)), (right - bar, middle - 6))
        draw.text((right - bar - 6, middle), f"z {heights[0]:.1f}", fill=DIM, font=_font(13), anchor="rm")
        draw.text((right + 6, middle), f"{heights[1]:.1f} m", fill=DIM, font=_font(13), anchor="lm")
    return np.asarray(picture)


def _shorten(text: str, font: Font, width: float) -> str:
    """Cut a text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _font(size: int) -> Font:
    """Return Pillow's own font: equal on every machine."""
    return ImageFont.load_default(size)
