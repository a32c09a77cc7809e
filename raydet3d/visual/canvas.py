"""A picture to draw on: boxes, texts, points, lines, circles, polygons and masks, by Pillow and without a display.

Names and arguments are those of MMEngine's visualizer. Positions are pixels, x to the right and y down. Colours are
names ('royalblue', 'g', '#ff8800') or (red, green, blue) from 0 to 255. Wherever there may be one colour, style or
width for all shapes there may be a list with one for each.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont

from raydet3d.errors import InputError

Array = npt.NDArray[Any]
Color = tuple[int, int, int]

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


def to_array(values: Any) -> Array:
    """A tensor or anything like it in host memory."""
    return values.detach().cpu().float().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def to_color(value: Any) -> Color:
    """A colour as (red, green, blue) from 0 to 255.

    Raises:
        InputError: There is no such colour.
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


def _each(value: Any, count: int, *, is_color: bool = False) -> list[Any]:
    """One value for each of so many shapes: a list's own, or the same for all."""
    is_list = isinstance(value, (list, tuple, np.ndarray, torch.Tensor)) and len(value) > 0
    if is_color:  # (255, 0, 0) is one colour, [(255, 0, 0), 'g'] are two
        is_list = is_list and not (len(value) == 3 and not isinstance(value[0], (str, list, tuple, np.ndarray)))
    if not is_list:
        return [value] * count
    if len(value) != count:
        raise InputError(f"{len(value)} values for {count} shapes: give one for all, or one for each")
    return list(value)


class Canvas:
    """Holds the current picture and draws on it; every method that draws gives the canvas itself back.

    Args:
        image: A first picture, (H, W, 3) uint8.
    """

    def __init__(self, image: Array | None = None) -> None:
        self._image: Array | None = None
        if image is not None:
            self.set_image(image)

    def set_image(self, image: Array) -> None:
        """Take a picture, (H, W, 3) uint8 or gray (H, W), to draw on."""
        array = np.asarray(image)
        if array.ndim == 2:
            array = np.repeat(array[..., None], 3, -1)
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"a picture is an array of shape (H, W, 3) or (H, W), got {array.shape}")
        self._image = array if array.dtype == np.uint8 else np.clip(array, 0, 255).astype(np.uint8)

    def get_image(self) -> Array:
        """The current picture: the last one that was drawn or set."""
        if self._image is None:
            raise ValueError("nothing has been drawn yet; call set_image or add_datasample first")
        return self._image

    # -- shapes -------------------------------------------------------------------------------------------------

    def draw_bboxes(
        self,
        bboxes: Any,
        edge_colors: Any = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Any = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw axis-aligned boxes.

        Args:
            bboxes: (K, 4) or (4,): x0, y0, x1, y1.
            edge_colors: Of the outlines.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: Pixels.
            face_colors: Of the inside; ``'none'`` leaves it.
            alpha: How opaque outlines and insides are, from 0 to 1.
        """
        boxes = to_array(bboxes).reshape(-1, 4)
        if (boxes[:, :2] > boxes[:, 2:]).any():
            raise InputError("draw_bboxes takes x0, y0, x1, y1 with x0 <= x1 and y0 <= y1")
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        return self.draw_polygons(list(corners), edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_polygons(
        self,
        polygons: Any,
        edge_colors: Any = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Any = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw closed polygons.

        Args:
            polygons: (P, 2) corners, or a list of those.
            edge_colors: See ``draw_bboxes``, like the rest.
            line_styles: See ``edge_colors``.
            line_widths: See ``edge_colors``.
            face_colors: See ``edge_colors``.
            alpha: See ``edge_colors``.
        """
        shapes = [to_array(shape) for shape in (polygons if isinstance(polygons, (list, tuple)) else [polygons])]
        settings = self._settings(len(shapes), edge_colors, line_styles, line_widths)

        def draw(layer: ImageDraw.ImageDraw) -> None:
            faces = _each(face_colors, len(shapes), is_color=True)
            for shape, face, (color, dashes, width) in zip(shapes, faces, settings, strict=True):
                if not isinstance(face, str) or face != "none":
                    layer.polygon([tuple(corner) for corner in shape * SMOOTH], fill=(*to_color(face), _opacity(alpha)))
                _line(layer, np.concatenate([shape, shape[:1]]), (*color, _opacity(alpha)), dashes, width)

        return self._draw(draw)

    def draw_lines(
        self, x_datas: Any, y_datas: Any, colors: Any = "g", line_styles: Any = "-", line_widths: Any = 2
    ) -> Self:
        """Draw straight lines.

        Args:
            x_datas: (K, 2) or (2,): where each begins and ends.
            y_datas: The same for y.
            colors: Of the lines.
            line_styles: See ``draw_bboxes``.
            line_widths: Pixels.
        """
        ends = np.stack([to_array(x_datas).reshape(-1, 2), to_array(y_datas).reshape(-1, 2)], -1)
        settings = self._settings(len(ends), colors, line_styles, line_widths)

        def draw(layer: ImageDraw.ImageDraw) -> None:
            for line, (color, dashes, width) in zip(ends, settings, strict=True):
                _line(layer, line, (*color, 255), dashes, width)

        return self._draw(draw)

    def draw_circles(
        self,
        center: Any,
        radius: Any,
        edge_colors: Any = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Any = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw circles.

        Args:
            center: (K, 2) or (2,) middles.
            radius: (K,) radii, or one.
            edge_colors: See ``draw_bboxes``, like the rest.
            line_styles: See ``edge_colors``.
            line_widths: See ``edge_colors``.
            face_colors: See ``edge_colors``.
            alpha: See ``edge_colors``.
        """
        middles = to_array(center).reshape(-1, 1, 2)
        radii = to_array(radius).reshape(-1, 1, 1)
        turn = np.linspace(0, 2 * np.pi, 65)[:-1]
        rims = middles + radii * np.stack([np.cos(turn), np.sin(turn)], -1)
        return self.draw_polygons(list(rims), edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_points(self, positions: Any, colors: Any = "g", marker: str | None = None, sizes: Any = None) -> Self:
        """Draw points.

        Args:
            positions: (N, 2) or (2,).
            colors: Of the points.
            marker: ``'o'``, also where None, ``'s'`` for squares, ``'x'`` or ``'+'`` for crosses.
            sizes: (N,) areas in square pixels, or one; 9 by default.
        """
        places = to_array(positions).reshape(-1, 2)
        inks = [to_color(color) for color in _each(colors, len(places), is_color=True)]
        reach = np.sqrt(np.asarray(_each(9 if sizes is None else sizes, len(places)), float)) / 2
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
        positions: Any,
        font_sizes: Any = None,
        colors: Any = "g",
        vertical_alignments: Any = "top",
        horizontal_alignments: Any = "left",
        font_families: Any = "sans-serif",
        bboxes: Any = None,
        font_properties: Any = None,
    ) -> Self:
        """Write texts.

        Args:
            texts: One or several.
            positions: (K, 2) or (2,).
            font_sizes: Pixels; by default in proportion to the picture.
            colors: Of the letters.
            vertical_alignments: Which part of the text is at the position: ``top``, ``center`` or ``bottom``.
            horizontal_alignments: ``left``, ``center`` or ``right``.
            font_families: Accepted for MMEngine's sake, like ``font_properties``: Pillow's own font is used, so that
                pictures look alike everywhere.
            bboxes: Background: ``dict(facecolor=, alpha=, pad=)``.
            font_properties: See ``font_families``.
        """
        words = [texts] if isinstance(texts, str) else list(texts)
        count = len(words)
        places = to_array(positions).reshape(-1, 2)
        inks = [to_color(color) for color in _each(colors, count, is_color=True)]
        usual = max(11, round(min(self.get_image().shape[:2]) / 40))
        sizes = [usual if size is None else size for size in _each(font_sizes, count)]
        across = [_anchor("horizontal", side) for side in _each(horizontal_alignments, count)]
        down = [_anchor("vertical", side) for side in _each(vertical_alignments, count)]
        backs = _each(bboxes, count)

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

    def draw_binary_masks(self, binary_masks: Any, colors: Any = "g", alphas: Any = 0.8) -> Self:
        """Colour the pixels of masks.

        Args:
            binary_masks: (H, W) or (K, H, W) booleans, as large as the picture.
            colors: Of the masks.
            alphas: How opaque each is, from 0 to 1.
        """
        masks = to_array(binary_masks).astype(bool)
        masks = masks[None] if masks.ndim == 2 else masks
        picture = self.get_image().astype(np.float32)
        if masks.shape[1:] != picture.shape[:2]:
            raise InputError(f"masks of {masks.shape[1:]} pixels do not fit a picture of {picture.shape[:2]}")
        inks = [to_color(color) for color in _each(colors, len(masks), is_color=True)]
        for mask, ink, alpha in zip(masks, inks, _each(alphas, len(masks)), strict=True):
            picture[mask] = picture[mask] * (1 - float(alpha)) + np.array(ink) * float(alpha)
        self._image = np.rint(picture).astype(np.uint8)
        return self

    # -- how ----------------------------------------------------------------------------------------------------

    def _settings(
        self, count: int, colors: Any, styles: Any, widths: Any
    ) -> Iterator[tuple[Color, tuple[int, ...], Any]]:
        inks = [to_color(color) for color in _each(colors, count, is_color=True)]
        dashes = []
        for style in _each(styles, count):
            if style not in DASHES:
                raise InputError(f"no line style {style!r}; there are '-', '--', ':' and '-.'")
            dashes.append(DASHES[style])
        return zip(inks, dashes, _each(widths, count), strict=True)

    def _draw(self, draw: Callable[[ImageDraw.ImageDraw], None]) -> Self:
        """Draw on a layer of twice the size, and lay it shrunk over the picture: so edges are smooth."""
        picture = Image.fromarray(self.get_image())
        layer = Image.new("RGBA", (picture.width * SMOOTH, picture.height * SMOOTH), (0, 0, 0, 0))
        draw(ImageDraw.Draw(layer))
        self._image = np.asarray(Image.alpha_composite(picture.convert("RGBA"), layer.reduce(SMOOTH)).convert("RGB"))
        return self


def _font(text: str, size: float) -> Any:
    """Pillow's own font, or matplotlib's where the text has letters that it lacks: alike on every machine."""
    if not text.isascii():
        for folder in getattr(importlib.util.find_spec("matplotlib"), "submodule_search_locations", None) or ():
            file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
            if file.is_file():
                return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _opacity(alpha: float) -> int:
    return round(255 * float(alpha))


def _anchor(way: str, side: Any) -> str:
    if side not in ANCHORS[way]:
        raise InputError(f"{way} alignment must be one of {', '.join(ANCHORS[way])}, got {side!r}")
    return ANCHORS[way][side]


def _line(
    layer: ImageDraw.ImageDraw, points: Array, ink: tuple[int, ...], dashes: tuple[int, ...], width: float
) -> None:
    """A line through points, whole or in dashes."""
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
