"""Lay out a street scene: cars in lanes and parked, pedestrians, cyclists, unlabelled objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from raydet3d.data.synthetic.shapes import (
    CAR_STYLES,
    Thing,
    make_car,
    make_clutter,
    make_cyclist,
    make_pedestrian,
)
from raydet3d.data.synthetic.street import KERB_HEIGHT_M, PAVEMENT_M, Ground, Side, Street
from raydet3d.data.synthetic.town_settings import TownSettings
from raydet3d.ops.bev_collision import overlaps
from raydet3d.ops.points import bev_corners

# Objects to be labelled are placed this far inside the range, so that its border cuts none.
BORDER_M = 2.3
# Tangent of the angle from straight ahead up to which such things are placed; the picture ends at 0.86.
VIEW = 0.8
NEAREST_M = 5.5
FARTHEST_M = 70.0
# Clutter starts here: nothing may stand beside or behind the camera.
FRONT_M = 3.0


@dataclass(frozen=True)
class Scene:
    """One moment of a street, in the LiDAR frame.

    Args:
        things: All objects on the ground.
        ground: The ground.
        street: The street's course.
    """

    things: tuple[Thing, ...]
    ground: Ground
    street: Street


def make_scene(settings: TownSettings, rng: np.random.Generator) -> Scene:
    """Lay out one street at random."""
    street, ground = Street.draw(rng), Ground.draw(rng)
    layout = _Layout(street, ground, settings, rng)
    layout.add_cars()
    layout.add_cyclists()
    layout.add_pedestrians()
    layout.add_far_traffic()
    for side in street.sides:
        layout.add_kerb(side)
        layout.add_furniture(side)
        layout.add_background(side)
    return Scene(tuple(layout.things), ground, street)


@dataclass(frozen=True)
class _Slot:
    """A place for a car: street coordinates, heading against the street's, and how far the car may stand askew."""

    s: float
    d: float
    turn: float
    askew: float


class _Layout:
    """Places things one by one; what would overlap something that stands is left out."""

    def __init__(self, street: Street, ground: Ground, settings: TownSettings, rng: np.random.Generator) -> None:
        self.street = street
        self.ground = ground
        self.settings = settings
        self.rng = rng
        self.things: list[Thing] = []
        self._footprints = np.zeros((0, 4, 2))  # corners

    # -- vehicles and pedestrians ------------------------------------------------------------------------------------

    def add_cars(self) -> None:
        """Cars in lanes, parked rows, lots and the side street, as many as the settings ask for."""
        wanted = int(self.rng.integers(self.settings.cars[0], self.settings.cars[1] + 1))
        slots = [*self._driving_slots(), *self._parked_slots(), *self._crossing_slots()]
        names = list(CAR_STYLES)
        share = np.array([CAR_STYLES[name].share for name in names])
        for index in self.rng.permutation(len(slots)):
            if wanted == 0:
                break
            slot = slots[index]
            car = make_car(names[self.rng.choice(len(names), p=share / share.sum())], self.rng)
            wanted -= self._put(car, slot, margin=0.25, ahead=8.5 if abs(slot.d) < 2 else NEAREST_M)

    def _driving_slots(self) -> Iterator[_Slot]:
        street, rng = self.street, self.rng
        for lane in range(-street.lanes_right, street.lanes_left + 1):
            turn = np.pi if lane > 0 and not street.one_way else 0.0
            s = rng.uniform(6, 16)
            while s < self.settings.range_m[2]:
                yield _Slot(s, lane * street.lane + rng.normal(0, 0.15), turn, 0.04)
                s += rng.uniform(7, 16)

    def _parked_slots(self) -> Iterator[_Slot]:
        rng = self.rng
        for side in self.street.sides:
            turn = 0.0 if side.sign < 0 or self.street.one_way else np.pi
            if side.parking == "parallel":
                yield from self._row(side.edge + 1.15, side.sign, turn, 5.9)
            elif side.parking == "angled":
                slant = float(rng.choice([np.pi / 2, np.pi / 3, np.pi / 4]))
                yield from self._row(side.edge + 2.6, side.sign, side.sign * slant, 2.6 / np.sin(slant))
            if side.behind == "lot":
                for row in (3.2, 8.6, 15.5):
                    yield from self._row(side.back + row, side.sign, np.pi / 2, 2.8)

    def _row(self, d: float, sign: int, turn: float, pitch: float) -> Iterator[_Slot]:
        s = self.rng.uniform(4, 4 + pitch)
        while s < self.settings.range_m[2]:
            if not self.street.crosses(s, 2.5):
                facing = turn + (np.pi if self.rng.random() < 0.2 else 0.0)
                yield _Slot(s + self.rng.normal(0, 0.1), sign * (d + self.rng.normal(0, 0.1)), facing, 0.035)
            s += pitch

    def _crossing_slots(self) -> Iterator[_Slot]:
        if self.street.crossing is None:
            return
        middle, half = self.street.crossing
        for lane, turn in ((-half / 2, np.pi / 2), (half / 2, -np.pi / 2)):
            d = self.rng.uniform(-18, -10)
            while d < 18:
                turning = self.rng.random() < 0.25
                yield _Slot(middle - lane, d, turn, 0.5 if turning else 0.05)
                d += self.rng.uniform(6.5, 12)

    def add_cyclists(self) -> None:
        """Cyclists at the edge of the lanes, some on the side street."""
        street, rng = self.street, self.rng
        wanted = int(rng.integers(self.settings.cyclists[0], self.settings.cyclists[1] + 1))
        for _ in range(wanted * 12):
            if wanted == 0:
                break
            side = street.sides[rng.integers(2)]
            turn = 0.0 if side.sign < 0 or street.one_way else np.pi
            s, d = rng.uniform(7, self.settings.range_m[2]), side.edge - rng.uniform(0.4, 1.1)
            slot = _Slot(s, side.sign * d, turn, 0.08)
            if street.crossing is not None and rng.random() < 0.3:
                across = float(rng.choice([-1, 1]))
                middle = street.crossing[0] + across * (street.crossing[1] - 0.8)
                slot = _Slot(middle, rng.uniform(-14, 14), across * np.pi / 2, 0.2)
            wanted -= self._put(make_cyclist(rng), slot, margin=0.25, ahead=NEAREST_M)

    def add_pedestrians(self) -> None:
        """People on the pavements, alone and in pairs, and some who cross the street."""
        street, rng = self.street, self.rng
        wanted = int(rng.integers(self.settings.pedestrians[0], self.settings.pedestrians[1] + 1))
        for _ in range(wanted * 12):
            if wanted <= 0:
                break
            side = street.sides[rng.integers(2)]
            s = rng.uniform(6, self.settings.range_m[2])
            if rng.random() < 0.2:
                d, turn, raised = side.sign * rng.uniform(0, side.edge), float(rng.choice([-1, 1])) * np.pi / 2, 0.0
            else:
                d = side.sign * (side.kerb + rng.uniform(0.5, PAVEMENT_M - 0.4))
                turn, raised = float(rng.choice([0, np.pi])), 0.0 if street.crosses(s) else KERB_HEIGHT_M
            askew = 0.2 if rng.random() < 0.8 else 3.0
            for _ in range(2 if rng.random() < 0.25 else 1):
                wanted -= self._put(make_pedestrian(rng), _Slot(s, d, turn, askew), margin=0.12, raised=raised)
                d += side.sign * rng.uniform(0.8, 1.0)

    def add_far_traffic(self) -> None:
        """Cars beyond the range: they are seen, and not labelled."""
        street, rng = self.street, self.rng
        for _ in range(int(rng.integers(1, 5))):
            lane = int(rng.integers(-street.lanes_right, street.lanes_left + 1))
            turn = np.pi if lane > 0 and not street.one_way else 0.0
            s = rng.uniform(self.settings.range_m[2] + 5, FARTHEST_M)
            style = str(rng.choice(list(CAR_STYLES)))
            self._put(make_car(style, rng), _Slot(s, lane * street.lane, turn, 0.04), margin=0.5, labelled=False)

    # -- unlabelled objects -----------------------------------------------------------------------------------

    def add_kerb(self, side: Side) -> None:
        """The raised pavement, in short slabs that follow the street, open where the side street is."""
        length = 5.0
        for s in np.arange(FRONT_M + 2.5, FARTHEST_M, length):
            if not self.street.crosses(float(s), length / 2):
                slab = make_clutter("kerb", self.rng, length=length + 0.2)
                d = side.sign * (side.kerb + PAVEMENT_M / 2)
                self._stand(slab, float(s), d, solid=False)

    def add_furniture(self, side: Side) -> None:
        """Poles, signs, trees, bins and crates on the pavement."""
        rng = self.rng
        kinds = ("pole", "sign", "tree", "bin", "crate", "bush")
        chances = (0.3, 0.15, 0.25, 0.15, 0.07, 0.08)
        s = rng.uniform(5, 10)
        while s < FARTHEST_M:
            kind = str(rng.choice(kinds, p=chances))
            near_road = kind in ("pole", "sign", "tree")
            d = side.kerb + (rng.uniform(0.3, 0.6) if near_road else PAVEMENT_M - rng.uniform(0.5, 1.0))
            if not self.street.crosses(s, 0.5):
                self._stand(make_clutter(kind, rng), s, side.sign * d, raised=KERB_HEIGHT_M)
            s += rng.uniform(3.5, 9)

    def add_background(self, side: Side) -> None:
        """House fronts, garden walls and hedges, or bushes and trees, behind the pavement."""
        rng = self.rng
        s = FRONT_M + rng.uniform(0, 4)
        back = side.back + (19.5 if side.behind == "lot" else 0.0)
        while s < FARTHEST_M:
            length = float(rng.uniform(6, 13))
            middle = s + length / 2
            if not self.street.crosses(middle, length / 2 + 1):
                self._add_plot(side, middle, length, back)
            s += length + float(rng.uniform(0.3, 3.0))

    def _add_plot(self, side: Side, middle: float, length: float, back: float) -> None:
        rng = self.rng
        setback = {"houses": 0.2, "gardens": 5.0, "park": 9.0, "lot": 0.5}[side.behind] + rng.uniform(0, 1.5)
        if side.behind != "park" or rng.random() < 0.4:
            house = make_clutter("house", rng, length=length)
            self._stand(house, middle, side.sign * (back + setback + house.size[1] / 2))
        if side.behind in ("gardens", "park"):
            border = str(rng.choice(["wall", "hedge", "none"]))
            if border != "none":
                self._stand(make_clutter(border, rng, length=length), middle, side.sign * (back + 0.7))
            for _ in range(int(rng.integers(1, 4))):
                plant = make_clutter(str(rng.choice(["bush", "tree"])), rng)
                d = side.sign * (back + rng.uniform(2, 8))
                self._stand(plant, middle + rng.uniform(-length / 2, length / 2), d)

    # -- placing -------------------------------------------------------------------------------------------------

    def _put(
        self,
        thing: Thing,
        slot: _Slot,
        *,
        margin: float,
        raised: float = 0.0,
        ahead: float = NEAREST_M,
        labelled: bool = True,
    ) -> bool:
        """Place what has a label; inside the range and the view, unless it is there to be seen only."""
        x, y, direction = self.street.at(slot.s, slot.d)
        x0, y0, x1, y1 = self.settings.range_m
        border = min(BORDER_M, max(thing.size[:2]) / 2 + 0.2)
        inside = max(x0 + border, ahead) <= x <= x1 - border and y0 + border <= y <= y1 - border
        if labelled and not (inside and abs(y) <= VIEW * x - 0.4):
            return False
        yaw = direction + slot.turn + float(np.clip(self.rng.normal(0, 1), -2, 2)) * slot.askew
        return self._place(thing, x, y, yaw, margin=margin, raised=raised)

    def _stand(self, thing: Thing, s: float, d: float, *, raised: float = 0.0, solid: bool = True) -> bool:
        """Place clutter along the street."""
        x, y, direction = self.street.at(s, d)
        reach = max(thing.size[:2]) / 2
        if x - reach < 1.0 or abs(y) > 1.2 * x + reach + 4:
            return False
        return self._place(thing, x, y, direction, margin=0.15, raised=raised, solid=solid)

    def _place(
        self, thing: Thing, x: float, y: float, yaw: float, *, margin: float, raised: float, solid: bool = True
    ) -> bool:
        if solid:
            length, width = thing.size[0] + 2 * margin, thing.size[1] + 2 * margin
            footprint = bev_corners(np.array([[x, y, length, width, yaw]]))
            if overlaps(footprint, self._footprints).any():
                return False
            self._footprints = np.concatenate([self._footprints, footprint])
        z = float(self.ground.height(x, y)) + raised
        yaw = float((yaw + np.pi) % (2 * np.pi) - np.pi)
        self.things.append(replace(thing, center=(x, y, z), yaw=yaw))
        return True
