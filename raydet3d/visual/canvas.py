"""`Canvas`: draw boxes, texts, points, lines, circles, polygons and masks on an image with Pillow, without a display.

Names and arguments are those of MMEngine's visualizer. Positions are pixels, x to the right and y down. Colours are
names ('royalblue', 'g', '#ff8800') or (red, green, blue) from 0 to 255. Wherever one colour, style or
width for all shapes is allowed, a list with one per shape is allowed too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont

from raydet3d.errors import InputError
from raydet3d.structures.sample_types import ArrayLike

Array = npt.NDArray[Any]
Color = tuple[int, int, int]
ColorLike = str | Sequence[float]
"""A name, or (red, green, blue) from 0 to 255."""
ColorsLike = ColorLike | Sequence[ColorLike]
"""One colour for all shapes, or one per shape."""
Styles = str | Sequence[str]
Numbers = float | Sequence[float] | ArrayLike | None

LETTERS = {
    **{"b": "blue", "g": "green", "r": "red", "c": "cyan", "m": "magenta", "y": "gold", "k": "black", "w": "white"},
    "o": "orange",
}
DASHES = {"-": (), "solid": (), "--": (8, 5), "dashed": (8, 5), ":": (2, 4), "dotted": (2, 4), "-.": (8, 4, 2, 4)}
ANCHORS = {
    "horizontal": {"left": "l", "center": "m", "right": "r"},
    "vertical": {"top": "a", "center": "m", "bottom": "d", "baseline": "s"},
}
SMOOTH = 2
"""Factor by which shapes are drawn larger before they are reduced, for antialiased edges."""


def draw_smoothly(picture: Image.Image, draw: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    """Draw on a transparent layer of `SMOOTH` times the size, and blend it over an image."""
    layer = Image.new("RGBA", (picture.width * SMOOTH, picture.height * SMOOTH), (0, 0, 0, 0))
    draw(ImageDraw.Draw(layer))
    return Image.alpha_composite(picture.convert("RGBA"), layer.reduce(SMOOTH)).convert("RGB")


def color_scale(share: Array, stops: Array) -> Array:
    """Interpolate colours.

    Args:
        share: (...) positions on the scale, 0 to 1.
        stops: (n, 3) colours at equal distances, from 0 to 1.

    Returns:
        (..., 3) float colours.
    """
    place = np.clip(share, 0, 1) * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    part = (place - low)[..., None]
    colors: Array = stops[low] * (1 - part) + stops[low + 1] * part
    return colors


def to_array(values: ArrayLike | Sequence[ArrayLike]) -> Array:
    """Return a tensor or array-like as an array in host memory."""
    return values.detach().cpu().float().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def to_color(value: ColorLike) -> Color:
    """Return a colour as (red, green, blue) from 0 to 255.

    Raises:
        InputError: The colour does not exist.
    """
    if isinstance(value, str):
        try:
            red, green, blue = ImageColor.getrgb(LETTERS.get(value, value))[:3]
        except ValueError:
            raise InputError(f"no colour {value!r}; write a name such as 'red', '#ff8800', or (255, 136, 0)") from None
        return red, green, blue
    numbers = [float(number) for number in value]
    if len(numbers) != 3 or not all(0 <= number <= 255 for number in numbers):
        raise InputError(f"a colour is a name or three numbers from 0 to 255, got {value!r}")
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


class TextBox(TypedDict, total=False):
    """Background of a text: fill colour, opacity, and padding in pixels."""

    facecolor: ColorLike
    alpha: float
    pad: float


PerShape = ColorsLike | Styles | Numbers | TextBox | Sequence[TextBox]


def _per_shape(value: PerShape, count: int, *, is_color: bool = False) -> list[Any]:
    """Return one value per shape: those of a list, or the same for all."""
    given: Any = value
    is_list = isinstance(given, (list, tuple, np.ndarray, torch.Tensor)) and len(given) > 0
    if is_color:  # (255, 0, 0) is one colour, [(255, 0, 0), 'g'] are two
        is_list = is_list and not (len(given) == 3 and not isinstance(given[0], (str, list, tuple, np.ndarray)))
    if not is_list:
        return [given] * count
    if len(given) != count:
        raise InputError(f"{len(given)} values for {count} shapes: give one for all, or one for each")
    return list(given)


class Canvas:
    """Hold the current image and draw on it; every drawing method returns the canvas.

    Args:
        image: Initial image, (H, W, 3) uint8.
    """

    def __init__(self, image: Array | None = None) -> None:
        self._image: Array | None = None
        if image is not None:
            self.set_image(image)

    def set_image(self, image: Array) -> None:
        """Set the image to draw on, (H, W, 3) uint8 or gray (H, W)."""
        array = np.asarray(image)
        if array.ndim == 2:
            array = np.repeat(array[..., None], 3, -1)
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"an image is an array of shape (H, W, 3) or (H, W), got {array.shape}")
        self._image = array if array.dtype == np.uint8 else np.clip(array, 0, 255).astype(np.uint8)

    def get_image(self) -> Array:
        """Return the current image, (H, W, 3) uint8."""
        if self._image is None:
            raise ValueError("the visualizer has no image yet; call set_image or add_datasample first")
        return self._image

    def draw_bboxes(
        self,
        bboxes: ArrayLike,
        edge_colors: ColorsLike = "g",
        line_styles: Styles = "-",
        line_widths: Numbers = 2,
        face_colors: ColorsLike = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw axis-aligned boxes.

        Args:
            bboxes: (K, 4) or (4,): x0, y0, x1, y1.
            edge_colors: Colours of the outlines.
            line_styles: `-`, `--`, `:` or `-.`.
            line_widths: Line widths in pixels.
            face_colors: Fill colours; `'none'` does not fill.
            alpha: Opacity of outlines and fill, 0 to 1.
        """
        boxes = to_array(bboxes).reshape(-1, 4)
        if (boxes[:, :2] > boxes[:, 2:]).any():
            raise InputError("draw_bboxes takes x0, y0, x1, y1 with x0 <= x1 and y0 <= y1")
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        return self.draw_polygons(list(corners), edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_polygons(
        self,
        polygons: ArrayLike | Sequence[ArrayLike],
        edge_colors: ColorsLike = "g",
        line_styles: Styles = "-",
        line_widths: Numbers = 2,
        face_colors: ColorsLike = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw closed polygons.

        Args:
            polygons: (P, 2) corners, or a list of those.
            edge_colors: Colours of the outlines.
            line_styles: `-`, `--`, `:` or `-.`.
            line_widths: Line widths in pixels.
            face_colors: Fill colours; `'none'` does not fill.
            alpha: Opacity of outlines and fill, 0 to 1.
        """
        shapes = [to_array(shape) for shape in (polygons if isinstance(polygons, (list, tuple)) else [polygons])]
        settings = self._settings(len(shapes), edge_colors, line_styles, line_widths)

        def draw(layer: ImageDraw.ImageDraw) -> None:
            faces = _per_shape(face_colors, len(shapes), is_color=True)
            for shape, face, (color, dashes, width) in zip(shapes, faces, settings, strict=True):
                if not isinstance(face, str) or face != "none":
                    layer.polygon([tuple(corner) for corner in shape * SMOOTH], fill=(*to_color(face), _opacity(alpha)))
                _line(layer, np.concatenate([shape, shape[:1]]), (*color, _opacity(alpha)), dashes, width)

        return self._draw(draw)

    def draw_lines(
        self,
        x_datas: ArrayLike,
        y_datas: ArrayLike,
        colors: ColorsLike = "g",
        line_styles: Styles = "-",
        line_widths: Numbers = 2,
    ) -> Self:
        """Draw straight lines.

        Args:
            x_datas: (K, 2) or (2,) x of start and end.
            y_datas: (K, 2) or (2,) y of start and end.
            colors: Line colours.
            line_styles: `-`, `--`, `:` or `-.`.
            line_widths: Line widths in pixels.
        """
        ends = np.stack([to_array(x_datas).reshape(-1, 2), to_array(y_datas).reshape(-1, 2)], -1)
        settings = self._settings(len(ends), colors, line_styles, line_widths)

        def draw(layer: ImageDraw.ImageDraw) -> None:
            for line, (color, dashes, width) in zip(ends, settings, strict=True):
                _line(layer, line, (*color, 255), dashes, width)

        return self._draw(draw)

    def draw_circles(
        self,
        center: ArrayLike,
        radius: ArrayLike,
        edge_colors: ColorsLike = "g",
        line_styles: Styles = "-",
        line_widths: Numbers = 2,
        face_colors: ColorsLike = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw circles.

        Args:
            center: (K, 2) or (2,) centres.
            radius: (K,) radii, or one.
            edge_colors: Colours of the outlines.
            line_styles: `-`, `--`, `:` or `-.`.
            line_widths: Line widths in pixels.
            face_colors: Fill colours; `'none'` does not fill.
            alpha: Opacity of outlines and fill, 0 to 1.
        """
        middles = to_array(center).reshape(-1, 1, 2)
        radii = to_array(radius).reshape(-1, 1, 1)
        turn = np.linspace(0, 2 * np.pi, 65)[:-1]
        rims = middles + radii * np.stack([np.cos(turn), np.sin(turn)], -1)
        return self.draw_polygons(list(rims), edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_points(
        self, positions: ArrayLike, colors: ColorsLike = "g", marker: str | None = None, sizes: Numbers = None
    ) -> Self:
        """Draw points.

        Args:
            positions: (N, 2) or (2,).
            colors: Point colours.
            marker: `'o'` (also None) for discs, `'s'` for squares, `'x'` or `'+'` for crosses.
            sizes: (N,) areas in square pixels, or one; 9 by default.
        """
        places = to_array(positions).reshape(-1, 2)
        inks = [to_color(color) for color in _per_shape(colors, len(places), is_color=True)]
        reach = np.sqrt(np.asarray(_per_shape(9 if sizes is None else sizes, len(places)), float)) / 2
        if marker not in (None, "o", ".", "s", "x", "+"):
            raise InputError(f"draw_points: marker must be 'o', 's', 'x' or '+', got {marker!r}")

        def draw(layer: ImageDraw.ImageDraw) -> None:
            for (x, y), ink, half in zip(places * SMOOTH, inks, reach * SMOOTH, strict=True):
                box = (x - half, y - half, x + half, y + half)
                if marker == "s":
                    layer.rectangle(box, fill=ink)
                elif marker == "x":
                    layer.line(box, fill=ink, width=SMOOTH)
                    layer.line((box[0], box[3], box[2], box[1]), fill=ink, width=SMOOTH)
                elif marker == "+":
                    layer.line((box[0], y, box[2], y), fill=ink, width=SMOOTH)
                    layer.line((x, box[1], x, box[3]), fill=ink, width=SMOOTH)
                else:
                    layer.ellipse(box, fill=ink)

        return self._draw(draw)

    def draw_texts(
        self,
        texts: str | Sequence[str],
        positions: ArrayLike,
        font_sizes: Numbers = None,
        colors: ColorsLike = "g",
        vertical_alignments: Styles = "top",
        horizontal_alignments: Styles = "left",
        font_families: Styles = "sans-serif",
        bboxes: TextBox | Sequence[TextBox] | None = None,
        font_properties: object = None,
    ) -> Self:
        """Draw texts.

        Args:
            texts: One text or several.
            positions: (K, 2) or (2,).
            font_sizes: Font sizes in pixels; by default in proportion to the image.
            colors: Text colours.
            vertical_alignments: Part of the text that lies at the position: `top`, `center` or `bottom`.
            horizontal_alignments: `left`, `center` or `right`.
            font_families: Not used: Pillow's own font is used, so that images are equal everywhere.
            bboxes: Background: `dict(facecolor=, alpha=, pad=)`.
            font_properties: Not used.
        """
        words = [texts] if isinstance(texts, str) else list(texts)
        count = len(words)
        places = to_array(positions).reshape(-1, 2)
        inks = [to_color(color) for color in _per_shape(colors, count, is_color=True)]
        usual = max(11, round(min(self.get_image().shape[:2]) / 40))
        sizes = [usual if size is None else size for size in _per_shape(font_sizes, count)]
        across = [_anchor("horizontal", side) for side in _per_shape(horizontal_alignments, count)]
        down = [_anchor("vertical", side) for side in _per_shape(vertical_alignments, count)]
        backs = _per_shape(bboxes, count)

        def draw(layer: ImageDraw.ImageDraw) -> None:
            for word, place, ink, size, h, v, back in zip(words, places, inks, sizes, across, down, backs, strict=True):
                font = _font(word, size * SMOOTH)
                at = (float(place[0]) * SMOOTH, float(place[1]) * SMOOTH)
                if back is not None:
                    pad = float(back.get("pad", 2)) * SMOOTH
                    x0, y0, x1, y1 = layer.textbbox(at, word, font=font, anchor=h + v)
                    face = (*to_color(back.get("facecolor", "black")), _opacity(back.get("alpha", 0.8)))
                    layer.rectangle((x0 - pad, y0 - pad, x1 + pad, y1 + pad), fill=face)
                layer.text(at, word, fill=ink, font=font, anchor=h + v)

        return self._draw(draw)

    def draw_binary_masks(self, binary_masks: ArrayLike, colors: ColorsLike = "g", alphas: Numbers = 0.8) -> Self:
        """Blend the pixels of masks with colours.

        Args:
            binary_masks: (H, W) or (K, H, W) booleans of the image's size.
            colors: Mask colours.
            alphas: Opacity of each mask, 0 to 1.
        """
        masks = to_array(binary_masks).astype(bool)
        masks = masks[None] if masks.ndim == 2 else masks
        picture = self.get_image().astype(np.float32)
        if masks.shape[1:] != picture.shape[:2]:
            raise InputError(f"masks of {masks.shape[1:]} pixels do not fit a picture of {picture.shape[:2]}")
        inks = [to_color(color) for color in _per_shape(colors, len(masks), is_color=True)]
        for mask, ink, alpha in zip(masks, inks, _per_shape(alphas, len(masks)), strict=True):
            picture[mask] = picture[mask] * (1 - float(alpha)) + np.array(ink) * float(alpha)
        self._image = np.rint(picture).astype(np.uint8)
        return self

    def _settings(
        self, count: int, colors: ColorsLike, styles: Styles, widths: Numbers
    ) -> Iterator[tuple[Color, tuple[int, ...], float]]:
        inks = [to_color(color) for color in _per_shape(colors, count, is_color=True)]
        dashes = []
        for style in _per_shape(styles, count):
            if style not in DASHES:
                raise InputError(f"no line style {style!r}; there are '-', '--', ':' and '-.'")
            dashes.append(DASHES[style])
        return zip(inks, dashes, _per_shape(widths, count), strict=True)

    def _draw(self, draw: Callable[[ImageDraw.ImageDraw], None]) -> Self:
        self._image = np.asarray(draw_smoothly(Image.fromarray(self.get_image()), draw))
        return self


def _font(text: str, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, or matplotlib's for letters that it lacks: equal on every machine."""
    if not text.isascii():
        for folder in getattr(importlib.util.find_spec("matplotlib"), "submodule_search_locations", None) or ():
            file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
            if file.is_file():
                return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _opacity(alpha: float) -> int:
    return round(255 * float(alpha))


def _anchor(way: str, side: str) -> str:
    if side not in ANCHORS[way]:
        raise InputError(f"{way} alignment must be one of {', '.join(ANCHORS[way])}, got {side!r}")
    return ANCHORS[way][side]


def _line(
    layer: ImageDraw.ImageDraw, points: Array, ink: tuple[int, ...], dashes: tuple[int, ...], width: float
) -> None:
    """Draw a polyline, solid or dashed."""
    thick = max(1, round(float(width) * SMOOTH))
    if not dashes:
        layer.line([tuple(point) for point in points * SMOOTH], fill=ink, width=thick, joint="curve")
        return
    for start, end in pairwise(points):
        length, at, number = float(np.hypot(*(end - start))), 0.0, 0
        while at < length:
            to = min(at + dashes[number % len(dashes)], length)
            if number % 2 == 0:
                a, b = start + (end - start) * at / length, start + (end - start) * to / length
                layer.line([tuple(a * SMOOTH), tuple(b * SMOOTH)], fill=ink, width=thick)
            at, number = to, number + 1
