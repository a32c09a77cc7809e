"""Shapes of the town's objects: cars, pedestrians, cyclists and unlabelled objects, each of a few convex parts.

A part is a block (a box whose top may be smaller than its bottom, or shifted) or a ball. Parts stand in the thing's
own frame: origin on the ground under its centre, x along its heading, y left, z up, metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

# A label is a little larger than the surface it is drawn round, as annotators draw it: else half of the returns from
# a face would lie outside of the box by their range noise.
LABEL_MARGIN_M = 0.03


class Look(NamedTuple):
    """Appearance of a surface: its colour for the camera, the rest for the LiDAR.

    Args:
        color: Red, green, blue, 0 to 255.
        reflect: Intensity that a frontal hit returns, 0 to 1.
        lost: Share of hits that return nothing (glass).
        scatter_m: Mean depth at which foliage returns a pulse; 0 for a solid surface.
    """

    color: tuple[int, int, int]
    reflect: float
    lost: float = 0.0
    scatter_m: float = 0.0


GLASS = Look((52, 62, 74), 0.06, lost=0.6)
TYRE = Look((30, 30, 32), 0.05)
SKIN = Look((205, 160, 135), 0.42)
METAL = Look((120, 124, 128), 0.55)
BARK = Look((92, 72, 55), 0.25)
KERB = Look((158, 155, 150), 0.32)

PAINTS = (
    Look((196, 198, 202), 0.45), Look((236, 238, 238), 0.6), Look((42, 44, 48), 0.08), Look((92, 96, 102), 0.25),
    Look((150, 32, 30), 0.4), Look((36, 62, 118), 0.22), Look((64, 88, 70), 0.25), Look((176, 150, 104), 0.4),
)  # fmt: skip
CLOTHES = (
    Look((44, 52, 84), 0.25), Look((148, 44, 48), 0.35), Look((70, 70, 74), 0.2), Look((206, 200, 188), 0.5),
    Look((66, 104, 78), 0.3), Look((214, 164, 40), 0.5),
)  # fmt: skip
FACADES = (
    Look((188, 172, 146), 0.4), Look((164, 118, 98), 0.35), Look((204, 202, 194), 0.5), Look((150, 156, 160), 0.4),
    Look((196, 180, 120), 0.45),
)  # fmt: skip
LEAVES = (
    Look((74, 110, 52), 0.38, 0.1, 0.45), Look((96, 122, 60), 0.42, 0.1, 0.4), Look((58, 92, 50), 0.33, 0.1, 0.5),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One convex part of an object.

    Args:
        corners: (8, 3) corners of a block in the thing's frame: bottom four, then top four, both counter-clockwise.
            For a ball, those of the box around it.
        look: Its surface.
        ball: Whether it is the ellipsoid inside the corners, round seen from above, instead of the block.
    """

    corners: Array
    look: Look
    ball: bool = False


@dataclass(frozen=True)
class Thing:
    """An object of the town.

    Args:
        kind: What it is ("Car", "house", ...).
        label: Its name in a label file; None for clutter.
        center: (3,) x, y, z of its bottom centre, in the frame that its maker works in.
        size: Length, width, height of its label box, metres.
        yaw: Heading, radians, counter-clockwise from x.
        parts: What it is made of.
    """

    kind: str
    label: str | None
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    parts: tuple[Part, ...]


def block(
    x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], look: Look,
    *, top_x: tuple[float, float] | None = None, top_y: tuple[float, float] | None = None,
) -> Part:  # fmt: skip
    """A block between two rectangles; the top one equals the bottom one unless it is given."""
    tx, ty = top_x or x, top_y or y
    ring = ((0, 0), (1, 0), (1, 1), (0, 1))
    corners = [(x[i], y[j], z[0]) for i, j in ring] + [(tx[i], ty[j], z[1]) for i, j in ring]
    return Part(np.array(corners, np.float64), look)


def ball(center: tuple[float, float, float], radius: float, half_height: float, look: Look) -> Part:
    """An upright ellipsoid."""
    (x, y, z), r, k = center, radius, half_height
    box = block((x - r, x + r), (y - r, y + r), (z - k, z + k), look)
    return Part(box.corners, look, ball=True)


@dataclass(frozen=True)
class CarStyle:
    """Proportions of a car style, as fractions of its length and height.

    Args:
        size: Mean length, width, height of the label box, metres.
        waist: Height at which the windows begin.
        base: Rear and front end of the cabin at the waist, from the centre.
        roof: Rear and front end of the roof.
        label: The name in a label file.
        share: How often it is drawn.
    """

    size: tuple[float, float, float]
    waist: float
    base: tuple[float, float]
    roof: tuple[float, float]
    label: str = "Car"
    share: float = 1.0


CAR_STYLES = {
    "compact": CarStyle((3.6, 1.6, 1.5), 0.58, (-0.49, 0.27), (-0.42, 0.1), share=0.2),
    "hatchback": CarStyle((3.95, 1.66, 1.5), 0.58, (-0.48, 0.25), (-0.4, 0.08), share=0.3),
    "sedan": CarStyle((4.3, 1.72, 1.46), 0.6, (-0.36, 0.23), (-0.22, 0.06), share=0.25),
    "suv": CarStyle((4.25, 1.78, 1.66), 0.57, (-0.49, 0.27), (-0.45, 0.13), share=0.17),
    "van": CarStyle((5.0, 1.95, 2.1), 0.5, (-0.5, 0.42), (-0.49, 0.26), "Van", share=0.06),
    "truck": CarStyle((8.5, 2.5, 3.2), 0.45, (0.28, 0.5), (0.28, 0.46), "Truck", share=0.02),
}


def make_car(style: str, rng: np.random.Generator) -> Thing:
    """A car, van or truck of the style, at the origin."""
    like = CAR_STYLES[style]
    length, width, height = (mean * rng.normal(1, 0.025) for mean in like.size)
    paint = PAINTS[rng.integers(len(PAINTS))]
    long, wide, tall = length - 2 * LABEL_MARGIN_M, width - 2 * LABEL_MARGIN_M, height - LABEL_MARGIN_M
    side, waist = wide / 2, like.waist * tall
    low = 0.24 if like.label != "Truck" else 0.5
    taper = long * 0.02
    parts = [
        block((-long / 2, long / 2), (-side, side), (low, waist), paint,
              top_x=(-long / 2 + taper, long / 2 - taper), top_y=(-side * 0.95, side * 0.95)),
        block((like.base[0] * long, like.base[1] * long), (-side * 0.94, side * 0.94), (waist, tall - 0.06), GLASS,
              top_x=(like.roof[0] * long, like.roof[1] * long), top_y=(-side * 0.8, side * 0.8)),
        block((like.roof[0] * long, like.roof[1] * long), (-side * 0.8, side * 0.8), (tall - 0.06, tall), paint),
    ]  # fmt: skip
    if like.label == "Truck":
        parts.append(block((-long / 2, 0.24 * long), (-side, side), (low, tall), PAINTS[1]))
    for along in (-0.31, 0.31):
        for across in (-side + 0.1, side - 0.1):
            wheel = (along * long - 0.3, along * long + 0.3), (across - 0.09, across + 0.09)
            parts.append(block(*wheel, (0.0, low + 0.1), TYRE, top_x=(along * long - 0.24, along * long + 0.24)))
    return Thing(style, like.label, (0.0, 0.0, 0.0), (length, width, height), 0.0, tuple(parts))


def make_pedestrian(rng: np.random.Generator) -> Thing:
    """Someone walking or standing, at the origin."""
    length, width = float(rng.uniform(0.55, 0.9)), float(rng.normal(0.62, 0.04))
    height = float(np.clip(rng.normal(1.74, 0.08), 1.5, 1.95))
    long, wide, tall = length - 2 * LABEL_MARGIN_M, width - 2 * LABEL_MARGIN_M, height - LABEL_MARGIN_M
    coat, trousers = CLOTHES[rng.integers(len(CLOTHES))], CLOTHES[rng.integers(len(CLOTHES))]
    hip, neck = 0.48 * tall, 0.84 * tall
    swing = long / 2 - 0.13
    parts = [
        block(
            (-0.12, 0.12),
            (-wide * 0.36, wide * 0.36),
            (hip, neck),
            coat,
            top_x=(-0.1, 0.12),
            top_y=(-wide * 0.42, wide * 0.42),
        ),
        ball((0.03, 0.0, tall - 0.13), 0.11, 0.13, SKIN),
    ]
    for sign in (-1, 1):
        foot, hand = sign * swing, -sign * swing * 0.9
        y = sign * 0.1
        parts.append(
            block(
                (foot - 0.12, foot + 0.13),
                (y - 0.08, y + 0.08),
                (0.0, hip),
                trousers,
                top_x=(-0.1, 0.1),
                top_y=(y - 0.09, y + 0.09),
            )
        )
        y = sign * (wide / 2 - 0.05)
        parts.append(
            block(
                (hand - 0.06, hand + 0.06), (y - 0.05, y + 0.05), (0.45 * tall, 0.8 * tall), coat, top_x=(-0.07, 0.07)
            )
        )
    return Thing("pedestrian", "Pedestrian", (0.0, 0.0, 0.0), (length, width, height), 0.0, tuple(parts))


def make_cyclist(rng: np.random.Generator) -> Thing:
    """Someone riding a bicycle, at the origin."""
    length, width = float(rng.normal(1.76, 0.05)), float(rng.normal(0.6, 0.03))
    height = float(np.clip(rng.normal(1.74, 0.06), 1.55, 1.9))
    long, wide, tall = length - 2 * LABEL_MARGIN_M, width - 2 * LABEL_MARGIN_M, height - LABEL_MARGIN_M
    shirt, trousers = CLOTHES[rng.integers(len(CLOTHES))], CLOTHES[rng.integers(len(CLOTHES))]
    frame = PAINTS[rng.integers(len(PAINTS))]
    axle, bar = long / 2 - 0.34, 0.6 * tall
    parts = [
        block((-axle, axle), (-0.03, 0.03), (0.32, 0.5), frame, top_x=(-0.3, axle - 0.12)),
        block((-0.3, axle - 0.1), (-0.03, 0.03), (0.5, 0.82), frame, top_x=(-0.25, axle - 0.18)),
        block((axle - 0.24, axle - 0.14), (-wide / 2, wide / 2), (bar - 0.03, bar + 0.03), METAL),
        block(
            (-0.32, -0.05), (-0.17, 0.17), (0.52 * tall, 0.84 * tall), shirt, top_x=(-0.02, 0.2), top_y=(-0.21, 0.21)
        ),
        ball((0.2, 0.0, tall - 0.13), 0.11, 0.13, SKIN),
    ]
    for end in (-axle, axle):
        parts.append(block((end - 0.3, end + 0.3), (-0.025, 0.025), (0.06, 0.62), TYRE, top_x=(end - 0.26, end + 0.26)))
    for sign in (-1, 1):
        y = sign * 0.12
        pedal = sign * 0.1
        parts.append(
            block((pedal - 0.08, pedal + 0.1), (y - 0.06, y + 0.06), (0.25, 0.5 * tall), trousers, top_x=(-0.25, -0.02))
        )
        y = sign * 0.2
        parts.append(
            block((axle - 0.3, axle - 0.16), (y - 0.05, y + 0.05), (bar, 0.8 * tall), shirt, top_x=(0.0, 0.16))
        )
    return Thing("cyclist", "Cyclist", (0.0, 0.0, 0.0), (length, width, height), 0.0, tuple(parts))


def make_clutter(kind: str, rng: np.random.Generator, *, length: float = 0.0) -> Thing:
    """Make an unlabelled object: house, wall, hedge, pole, sign, tree, bush, bin, crate or kerb.

    Args:
        kind: Which.
        rng: Where its size and looks are drawn from.
        length: Extent along the street of what is as long as it is made (house, wall, hedge, kerb), metres.
    """
    size, parts = _CLUTTER[kind](rng, length)
    return Thing(kind, None, (0.0, 0.0, 0.0), size, 0.0, tuple(parts))


Made = tuple[tuple[float, float, float], list[Part]]
Side = float | tuple[float, float]


def _box(*sides: Side, looks: Sequence[Look]) -> Callable[[np.random.Generator, float], Made]:
    """Return the maker of a box.

    Args:
        *sides: Width and height, or length, width and height: metres, or bounds of a uniform draw.
        looks: Its surface, or those to draw from.
    """

    def make(rng: np.random.Generator, length: float) -> Made:
        drawn = [float(rng.uniform(*side)) if isinstance(side, tuple) else side for side in sides]
        long, wide, tall = drawn if len(drawn) == 3 else (length, *drawn)
        look = looks[int(rng.integers(len(looks)))] if len(looks) > 1 else looks[0]
        return (long, wide, tall), [block((-long / 2, long / 2), (-wide / 2, wide / 2), (0.0, tall), look)]

    return make


def _hedge(rng: np.random.Generator, length: float) -> Made:
    leaves, height = LEAVES[rng.integers(len(LEAVES))], float(rng.uniform(0.9, 1.7))
    count = max(1, round(length / 0.9))
    parts = [
        ball(((i + 0.5) * length / count - length / 2, 0.0, height * 0.45), 0.62, height * 0.55, leaves)
        for i in range(count)
    ]
    return (length, 1.24, height), parts


def _bush(rng: np.random.Generator, _length: float) -> Made:
    r, k = float(rng.uniform(0.4, 1.0)), float(rng.uniform(0.5, 0.9))
    return (2 * r, 2 * r, 2 * k), [ball((0.0, 0.0, k * 0.9), r, k, LEAVES[rng.integers(len(LEAVES))])]


def _tree(rng: np.random.Generator, _length: float) -> Made:
    r, trunk = float(rng.uniform(1.2, 2.2)), float(rng.uniform(2.0, 2.8))
    thick, leaves = float(rng.uniform(0.1, 0.2)), LEAVES[rng.integers(len(LEAVES))]
    parts = [
        block((-thick, thick), (-thick, thick), (0.0, trunk + 0.8), BARK),
        ball((0.0, 0.0, trunk + r), r, r * 1.1, leaves),
        ball((0.5 * r, 0.3 * r, trunk + 0.7 * r), 0.7 * r, 0.6 * r, leaves),
    ]
    return (2 * thick, 2 * thick, trunk + 2 * r), parts


def _sign(rng: np.random.Generator, _length: float) -> Made:
    board = PAINTS[rng.integers(4, 6)]._replace(reflect=0.95)
    parts = [
        block((-0.04, 0.04), (-0.04, 0.04), (0.0, 2.6), METAL),
        block((-0.06, -0.03), (-0.32, 0.32), (1.95, 2.6), board),
    ]
    return (0.2, 0.64, 2.6), parts


_CLUTTER: dict[str, Callable[[np.random.Generator, float], Made]] = {
    "house": _box(6.0, (4, 9), looks=FACADES),
    "wall": _box(0.3, (0.8, 2.0), looks=FACADES),
    "kerb": _box(3.0, 0.12, looks=[KERB]),
    "hedge": _hedge,
    "bush": _bush,
    "tree": _tree,
    "pole": _box(0.16, 0.16, (3.0, 6.5), looks=[METAL]),
    "sign": _sign,
    "bin": _box((0.5, 0.75), (0.5, 0.75), (0.8, 1.2), looks=[Look((46, 74, 54), 0.3)]),
    "crate": _box((0.9, 2.4), (0.8, 1.5), (0.7, 1.5), looks=[Look((148, 118, 78), 0.35)]),
}
