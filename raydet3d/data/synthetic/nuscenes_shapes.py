"""Shapes of nuScenes' classes that KITTI's town does not have, each of a few convex parts at the origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from raydet3d.data.synthetic.shapes import (
    GLASS,
    LABEL_MARGIN_M,
    METAL,
    PAINTS,
    TYRE,
    Look,
    Part,
    Thing,
    ball,
    block,
    make_car,
    make_cyclist,
    make_pedestrian,
)

ORANGE = Look((226, 96, 32), 0.5)
WHITE = Look((232, 232, 230), 0.6)
YELLOW = Look((222, 176, 40), 0.5)

Sizes = tuple[float, float, float]


def make_object(name: str, rng: np.random.Generator, *, ridden: bool = True) -> Thing:
    """Make an object of a detection class, at the origin, heading along x.

    Args:
        name: The class, such as "construction_vehicle".
        rng: Where its size and looks are drawn from.
        ridden: Whether someone rides a bicycle or motorcycle.
    """
    if name == "car":
        styles = ("compact", "hatchback", "sedan", "suv", "van")
        thing = make_car(str(rng.choice(styles)), rng)
    elif name == "pedestrian":
        thing = make_pedestrian(rng)
    elif name == "bicycle" and ridden:
        thing = make_cyclist(rng)
    else:
        thing = _MAKERS[name](rng, ridden)
    return replace(thing, kind=name, label=name)


def _thing(name: str, size: Sizes, parts: list[Part]) -> Thing:
    return Thing(name, name, (0.0, 0.0, 0.0), size, 0.0, tuple(parts))


def _draw(rng: np.random.Generator, size: Sizes, spread: float = 0.04) -> tuple[Sizes, Sizes]:
    """Return a label's size, and the part of it inside of the margin."""
    length, width, height = (float(mean * np.clip(rng.normal(1, spread), 0.85, 1.15)) for mean in size)
    return (length, width, height), (length - 2 * LABEL_MARGIN_M, width - 2 * LABEL_MARGIN_M, height - LABEL_MARGIN_M)


def _paint(rng: np.random.Generator) -> Look:
    return PAINTS[int(rng.integers(len(PAINTS)))]


def _wheels(long: float, side: float, places: tuple[float, ...], radius: float) -> list[Part]:
    return [
        block((along * long - radius, along * long + radius), (across - 0.12, across + 0.12), (0.0, 2 * radius), TYRE)
        for along in places
        for across in (-side + 0.13, side - 0.13)
    ]


def _truck(rng: np.random.Generator, _ridden: bool) -> Thing:
    thing = make_car("truck", rng)
    scale = float(rng.uniform(0.75, 1.0))
    parts = tuple(replace(part, corners=part.corners * [scale, 1.0, 1.0]) for part in thing.parts)
    return replace(thing, size=(thing.size[0] * scale, *thing.size[1:]), parts=parts)


def _bus(rng: np.random.Generator, _ridden: bool) -> Thing:
    size, (long, wide, tall) = _draw(rng, (11.2, 2.9, 3.4))
    side, paint = wide / 2, _paint(rng)
    parts = [
        block((-long / 2, long / 2), (-side, side), (0.35, 0.45 * tall), paint),
        block((-long / 2 + 0.05, long / 2 - 0.05), (-side + 0.03, side - 0.03), (0.45 * tall, 0.75 * tall), GLASS),
        block((-long / 2, long / 2), (-side, side), (0.75 * tall, tall), paint),
        *_wheels(long, side, (-0.3, 0.32), 0.5),
    ]
    return _thing("bus", size, parts)


def _trailer(rng: np.random.Generator, _ridden: bool) -> Thing:
    size, (long, wide, tall) = _draw(rng, (11.8, 2.8, 3.8))
    side = wide / 2
    parts = [
        block((-long / 2, long / 2), (-side, side), (1.15, tall), WHITE if rng.random() < 0.6 else _paint(rng)),
        block((-long / 2 + 0.3, 0.3 * long), (-0.5, 0.5), (0.8, 1.15), METAL),
        block((0.3 * long, 0.33 * long), (-0.8, 0.8), (0.0, 1.15), METAL),
        *_wheels(long, side, (-0.42, -0.33, -0.24), 0.5),
    ]
    return _thing("trailer", size, parts)


def _construction_vehicle(rng: np.random.Generator, _ridden: bool) -> Thing:
    size, (long, wide, tall) = _draw(rng, (6.4, 2.8, 3.2), 0.07)
    side = wide / 2
    parts = [
        block((-long / 2, 0.18 * long), (-side, -side + 0.55), (0.0, 0.95), TYRE),
        block((-long / 2, 0.18 * long), (side - 0.55, side), (0.0, 0.95), TYRE),
        block((-0.48 * long, 0.16 * long), (-0.42 * wide, 0.42 * wide), (0.8, 0.55 * tall), YELLOW),
        block((-0.2 * long, 0.12 * long), (-0.4 * wide, 0.05 * wide), (0.55 * tall, tall), GLASS),
        # The arm rises in front of the cabin and comes down to the bucket.
        block((0.1 * long, 0.3 * long), (0.1, 0.5), (0.5 * tall, 0.9 * tall), YELLOW, top_x=(0.22 * long, 0.38 * long)),
        block((0.3 * long, 0.4 * long), (0.1, 0.5), (0.25 * tall, 0.9 * tall), YELLOW),
        block((0.34 * long, 0.5 * long), (-0.35 * wide, 0.42 * wide), (0.1, 0.3 * tall), METAL),
    ]
    return _thing("construction_vehicle", size, parts)


def _motorcycle(rng: np.random.Generator, ridden: bool) -> Thing:
    size, (long, wide, tall) = _draw(rng, (2.1, 0.8, 1.6 if ridden else 1.15))
    paint, seat = _paint(rng), 0.75
    parts = [
        block((-0.3 * long, 0.25 * long), (-0.17, 0.17), (0.3, seat), paint),
        block((0.18 * long, 0.3 * long), (-wide / 2, wide / 2), (0.92, 1.0), METAL),
        block((0.24 * long, 0.42 * long), (-0.1, 0.1), (0.35, 1.0), paint, top_x=(0.18 * long, 0.3 * long)),
        *(block((end - 0.3, end + 0.3), (-0.07, 0.07), (0.0, 0.6), TYRE) for end in (-long / 2 + 0.3, long / 2 - 0.3)),
    ]
    if ridden:
        parts += [
            block((-0.2, 0.12), (-0.22, 0.22), (seat, tall - 0.26), _paint(rng), top_x=(-0.05, 0.2)),
            ball((0.12, 0.0, tall - 0.14), 0.14, 0.14, WHITE),
        ]
    else:
        parts.append(block((-0.1 * long, 0.1 * long), (-0.1, 0.1), (seat, tall), paint))
    return _thing("motorcycle", size, parts)


def _bicycle(rng: np.random.Generator, _ridden: bool) -> Thing:
    size, (long, wide, tall) = _draw(rng, (1.72, 0.56, 1.1))
    axle, paint = long / 2 - 0.33, _paint(rng)
    parts = [
        block((-axle, axle), (-0.04, 0.04), (0.3, 0.5), paint, top_x=(-0.3, axle - 0.1)),
        block((-0.3, axle - 0.1), (-0.04, 0.04), (0.5, 0.85), paint, top_x=(-0.25, axle - 0.15)),
        block((axle - 0.22, axle - 0.12), (-wide / 2, wide / 2), (tall - 0.1, tall), METAL),
        *(block((end - 0.33, end + 0.33), (-0.03, 0.03), (0.0, 0.66), TYRE) for end in (-axle, axle)),
    ]
    return _thing("bicycle", size, parts)


def _traffic_cone(rng: np.random.Generator, _ridden: bool) -> Thing:
    size, (long, wide, tall) = _draw(rng, (0.42, 0.42, 0.95))
    tip = 0.05
    parts = [
        block((-long / 2, long / 2), (-wide / 2, wide / 2), (0.0, 0.06), TYRE),
        block((-0.16, 0.16), (-0.16, 0.16), (0.06, 0.45 * tall), ORANGE, top_x=(-0.11, 0.11), top_y=(-0.11, 0.11)),
        block((-0.11, 0.11), (-0.11, 0.11), (0.45 * tall, 0.7 * tall), WHITE, top_x=(-0.08, 0.08), top_y=(-0.08, 0.08)),
        block((-0.08, 0.08), (-0.08, 0.08), (0.7 * tall, tall), ORANGE, top_x=(-tip, tip), top_y=(-tip, tip)),
    ]
    return _thing("traffic_cone", size, parts)


def _barrier(rng: np.random.Generator, _ridden: bool) -> Thing:
    # Its heading is across: nuScenes' barriers are wider than long.
    size, (long, wide, tall) = _draw(rng, (0.55, 2.4, 1.0))
    parts = [
        block((-long / 2, long / 2), (-wide / 2, wide / 2), (0.0, 0.35), WHITE),
        block((-long / 2, long / 2), (-wide / 2, wide / 2), (0.35, tall), ORANGE, top_x=(-0.1, 0.1)),
    ]
    return _thing("barrier", size, parts)


_MAKERS: dict[str, Callable[[np.random.Generator, bool], Thing]] = {
    "truck": _truck,
    "bus": _bus,
    "trailer": _trailer,
    "construction_vehicle": _construction_vehicle,
    "motorcycle": _motorcycle,
    "bicycle": _bicycle,
    "traffic_cone": _traffic_cone,
    "barrier": _barrier,
}
