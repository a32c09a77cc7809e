"""Draw feature maps: channels reduced to one heat map, or the strongest channels side by side."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from raydet3d.errors import InputError
from raydet3d.visual.canvas import Array, color_scale

# From the lowest to the highest value.
STOPS = np.array([(20, 24, 82), (38, 96, 196), (60, 190, 190), (240, 220, 90), (236, 110, 40), (140, 14, 18)], float)


def draw_featmap(
    featmap: Tensor,
    overlaid_image: Array | None = None,
    channel_reduction: str | None = "squeeze_mean",
    topk: int = 20,
    arrangement: tuple[int, int] = (4, 5),
    resize_shape: tuple[int, int] | None = None,
    alpha: float = 0.5,
) -> Array:
    """Draw a feature map, blue for its lowest value and red for its highest.

    Args:
        featmap: (C, H, W).
        overlaid_image: (H', W', 3) image to blend it with; the map is resized to it.
        channel_reduction: `squeeze_mean` (mean of all channels), `select_max` (the channel with the highest sum),
            or None for the `topk` channels with the highest sums side by side.
        topk: Number of channels; -1 means all, which must be 1 or 3.
        arrangement: (rows, columns) of the `topk`.
        resize_shape: (H, W) to resize the map to, without an image.
        alpha: Opacity of the map over the image, 0 to 1.

    Returns:
        (H, W, 3) uint8 image.
    """
    if not isinstance(featmap, Tensor) or featmap.dim() != 3:
        shape = tuple(featmap.shape) if isinstance(featmap, Tensor) else type(featmap).__name__
        raise InputError(f"draw_featmap takes a tensor (C, H, W), got {shape}")
    if channel_reduction not in ("squeeze_mean", "select_max", None):
        raise InputError(f"channel_reduction must be squeeze_mean, select_max or None, got {channel_reduction!r}")
    maps = featmap.detach().float().cpu()
    size = overlaid_image.shape[:2] if overlaid_image is not None else resize_shape
    if size is not None:
        maps = interpolate(maps[None], tuple(size), mode="bilinear", align_corners=False)[0]
    strength = maps.sum((1, 2))
    if channel_reduction == "squeeze_mean":
        return _blend(_heat(maps.mean(0)), overlaid_image, alpha)
    if channel_reduction == "select_max":
        return _blend(_heat(maps[int(strength.argmax())]), overlaid_image, alpha)
    if topk <= 0:
        if maps.shape[0] not in (1, 3):
            raise InputError(f"all of {maps.shape[0]} channels make no picture (1 or 3 do); set topk")
        return _blend(_heat(maps.mean(0)), overlaid_image, alpha)
    rows, columns = arrangement
    chosen = strength.topk(min(topk, maps.shape[0])).indices.tolist()
    if rows * columns < len(chosen):
        raise InputError(f"arrangement {arrangement} is too small for {len(chosen)} channels")
    tiles = [_blend(_heat(maps[i]), overlaid_image, alpha) for i in chosen]
    return grid(tiles, columns)


def grid(tiles: list[Array], columns: int, *, gap: int = 4) -> Array:
    """Arrange images of one size in rows.

    Args:
        tiles: (H, W, 3) images.
        columns: Images per row.
        gap: Pixels between images.
    """
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    out = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 16, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = (number // columns) * (height + gap), (number % columns) * (width + gap)
        out[y : y + height, x : x + width] = tile
    return out


def _heat(values: torch.Tensor) -> Array:
    array = values.numpy()
    low, high = float(array.min()), float(array.max())
    return np.rint(color_scale((array - low) / (high - low if high > low else 1.0), STOPS)).astype(np.uint8)


def _blend(heat: Array, image: Array | None, alpha: float) -> Array:
    if image is None:
        return heat
    mixed: Array = np.rint(image * (1 - alpha) + heat * alpha).astype(np.uint8)
    return mixed
