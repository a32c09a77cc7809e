"""A street for nuScenes' town: who stands and who moves where, while the car with the LiDAR drives along.

Places are street coordinates: s along the street, d to the left of the own lane's middle, metres.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from raydet3d.data.synthetic.nuscenes_shapes import make_object
from raydet3d.data.synthetic.shapes import Thing, make_clutter
from raydet3d.ops.bev_collision import overlaps
from raydet3d.ops.points import bev_corners

LANE_M = 3.4
# From the middle of the own lane: lane, cycle lane, parking strip, kerb, walkway, back of the pavement.
RIGHT = {"cycle": -2.4, "park": -4.7, "kerb": -6.3, "walk": -7.2, "stand": -9.0, "back": -10.2}
LEFT = {"cycle": 5.8, "park": 8.1, "kerb": 9.7, "walk": 10.6, "stand": 12.4, "back": 13.6}
SPAN_M = (-75.0, 75.0)  # beyond the ends of the car's way
EGO = (4.6, 2.0)  # length and width that nothing may come near to

CATEGORY = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}


@dataclass(frozen=True)
class Course:
    """The course of a street: a straight line or an arc.

    Args:
        heading: Direction at s = 0, radians.
        curvature: Change of direction per metre.
    """

    heading: float
    curvature: float

    def at(self, s: float, d: float) -> tuple[float, float, float]:
        """Return x, y and the direction of the street, in the frame of the scene."""
        turn = self.curvature * s
        direction = self.heading + turn
        chord = s * np.sinc(turn / 2 / np.pi)
        x = chord * np.cos(self.heading + turn / 2) - d * np.sin(direction)
        y = chord * np.sin(self.heading + turn / 2) + d * np.cos(direction)
        return float(x), float(y), float(direction)


@dataclass(frozen=True)
class Actor:
    """An object and its way.

    Args:
        thing: Its shape, at the origin.
        s: Where it is at the beginning.
        d: Its distance from the own lane's middle.
        turn: Its heading against the street's, radians.
        speed: Metres a second along the street, negative against it.
        category: Its category in the tables; empty for clutter.
        attribute: Its attribute, empty without one.
    """

    thing: Thing
    s: float
    d: float
    turn: float = 0.0
    speed: float = 0.0
    category: str = ""
    attribute: str = ""

    def at(self, course: Course, time_s: float) -> Thing:
        """Return the object where it is at a time, in the frame of the scene; the road is at z = 0."""
        x, y, direction = course.at(self.s + self.speed * time_s, self.d)
        return replace(self.thing, center=(x, y, 0.0), yaw=direction + self.turn)


@dataclass(frozen=True)
class StreetScene:
    """A street with everything in it.

    Args:
        course: Its course.
        actors: Objects and clutter.
        ego_speed: Speed of the car with the LiDAR, which begins at s = 0 in its lane.
    """

    course: Course
    actors: tuple[Actor, ...]
    ego_speed: float


def make_street(rng: np.random.Generator, duration_s: float) -> StreetScene:
    """Lay out a street at random for a drive of so many seconds."""
    curvature = float(rng.uniform(-1, 1) / 110) if rng.random() < 0.5 else 0.0
    course = Course(float(rng.uniform(-np.pi, np.pi)), curvature)
    ego_speed = float(rng.uniform(5.0, 9.0))
    layout = _Layout(rng, course, ego_speed, duration_s)
    layout.add_traffic()
    layout.add_works()
    layout.add_parked()
    layout.add_people()
    layout.add_clutter()
    return StreetScene(course, tuple(layout.actors), ego_speed)


class _Layout:
    """Places actors one by one; standing ones that would overlap are left out."""

    def __init__(self, rng: np.random.Generator, course: Course, ego_speed: float, duration_s: float) -> None:
        self.rng = rng
        self.course = course
        self.ego_speed = ego_speed
        self.duration_s = duration_s
        self.low, self.high = SPAN_M[0], SPAN_M[1] + ego_speed * duration_s
        self.actors: list[Actor] = []
        self._footprints = np.zeros((0, 4, 2))

    def add_traffic(self) -> None:
        """Vehicles and cycles that drive: all of a lane at one speed, so that none runs into another."""
        rng = self.rng
        opposite = float(rng.uniform(5.0, 11.0))
        for d, speed in ((0.0, self.ego_speed), (LANE_M, -opposite)):
            for s in self._stations(speed, 13.0, 26.0):
                names = ("car", "truck", "bus", "trailer", "motorcycle", "construction_vehicle")
                name = str(rng.choice(names, p=(0.5, 0.12, 0.12, 0.08, 0.13, 0.05)))
                thing = make_object(name, rng)
                # The own lane is free around the car, which is always at s = 0 of its lane's frame.
                if d == 0.0 and abs(s) < thing.size[0] / 2 + EGO[0] / 2 + 5:
                    continue
                attribute = "cycle.with_rider" if name == "motorcycle" else "vehicle.moving"
                self._add(thing, s, d + rng.normal(0, 0.1), speed, attribute)
        for d, speed in ((RIGHT["cycle"], 4.0), (LEFT["cycle"], -4.5)):
            for s in self._stations(speed, 12.0, 30.0):
                name = "bicycle" if rng.random() < 0.7 else "motorcycle"
                self._add(make_object(name, rng), s, d + rng.normal(0, 0.1), speed, "cycle.with_rider")

    def _stations(self, speed: float, least: float, most: float) -> Iterator[float]:
        """Yield places along a lane at the beginning, from which its traffic comes by during the drive."""
        ahead = self.ego_speed * self.duration_s - speed * self.duration_s
        s = SPAN_M[0] + min(0.0, ahead) + self.rng.uniform(0, most)
        while s < SPAN_M[1] + max(0.0, ahead):
            yield float(s)
            s += self.rng.uniform(least, most)

    def _add(self, thing: Thing, s: float, d: float, speed: float, attribute: str) -> None:
        turn = np.pi if speed < 0 else 0.0
        turn += float(np.clip(self.rng.normal(0, 0.02), -0.05, 0.05))
        self.actors.append(Actor(thing, s, float(d), turn, speed, CATEGORY[thing.kind], attribute))

    def add_works(self) -> None:
        """Building sites on the parking strips: cones, barriers, a construction vehicle."""
        rng = self.rng
        for side in (RIGHT, LEFT):
            start = self.low + rng.uniform(5, 30)
            while start < self.high - 20:
                length = float(rng.uniform(10, 18))
                inner = side["park"] + np.sign(-side["park"]) * 1.2
                for s in np.arange(start, start + length, rng.uniform(2.6, 3.4)):
                    across = float(rng.choice([0.0, np.pi])) + np.pi / 2
                    self._stand("barrier", float(s), inner + rng.normal(0, 0.1), turn=across)
                for s in (start - 4.5, start - 3.0, start - 1.5, start + length + 1.0, start + length + 2.5):
                    self._stand("traffic_cone", float(s), side["park"] + rng.uniform(-1.2, 1.2))
                middle = start + length / 2 + rng.uniform(-2, 2)
                self._stand("construction_vehicle", float(middle), side["kerb"] + np.sign(side["kerb"]) * 0.4,
                            turn=float(rng.choice([0.0, np.pi])), attribute="vehicle.parked")  # fmt: skip
                start += length + float(rng.uniform(45, 70))

    def add_parked(self) -> None:
        """Vehicles along the kerb, cycles on the pavement."""
        rng = self.rng
        for side, turn in ((RIGHT, 0.0), (LEFT, np.pi)):
            s = self.low + rng.uniform(0, 6)
            while s < self.high:
                names = ("car", "truck", "bus", "trailer", "construction_vehicle")
                name = str(rng.choice(names, p=(0.7, 0.12, 0.06, 0.09, 0.03)))
                facing = turn + (np.pi if rng.random() < 0.15 else 0.0) + rng.normal(0, 0.03)
                half = {"car": 2.4, "truck": 4.4, "construction_vehicle": 3.5}.get(name, 6.3)
                stopped = name == "bus"
                self._stand(name, s + half, side["park"] + rng.normal(0, 0.1), turn=facing,
                            attribute="vehicle.stopped" if stopped else "vehicle.parked")  # fmt: skip
                s += 2 * half + float(rng.uniform(1.0, 9.0))
            for s in np.arange(self.low + rng.uniform(0, 12), self.high, 14.0):
                name = "bicycle" if rng.random() < 0.5 else "motorcycle"
                for i in range(int(rng.integers(1, 4))):
                    self._stand(name, float(s) + 1.1 * i, side["stand"], turn=np.pi / 2 + rng.normal(0, 0.1),
                                attribute="cycle.without_rider", ridden=False)  # fmt: skip

    def add_people(self) -> None:
        """People who walk along the pavements, and who stand there."""
        rng = self.rng
        for side in (RIGHT, LEFT):
            for lane, sign in ((side["walk"], 1.0), (side["walk"] + np.sign(side["walk"]) * 0.8, -1.0)):
                speed = sign * float(rng.uniform(1.0, 1.6))
                for s in self._stations(speed, 6.0, 18.0):
                    self._add(make_object("pedestrian", rng), s, lane, speed, "pedestrian.moving")
            for s in np.arange(self.low + rng.uniform(0, 9), self.high, 11.0):
                self._stand("pedestrian", float(s), side["stand"] + rng.normal(0, 0.3), turn=float(rng.uniform(-3, 3)),
                            attribute="pedestrian.standing")  # fmt: skip

    def add_clutter(self) -> None:
        """House fronts, trees, poles, bins: what has no label."""
        rng = self.rng
        for side in (RIGHT, LEFT):
            sign = float(np.sign(side["back"]))
            s = self.low
            while s < self.high:
                length = float(rng.uniform(7, 15))
                kind = str(rng.choice(["house", "hedge", "wall"], p=[0.6, 0.2, 0.2]))
                thing = make_clutter(kind, rng, length=length)
                self._place(Actor(thing, s + length / 2, side["back"] + sign * (thing.size[1] / 2 + rng.uniform(0, 3))))
                s += length + float(rng.uniform(0.5, 4))
            for s in np.arange(self.low + rng.uniform(0, 6), self.high, 7.5):
                kind = str(rng.choice(["tree", "pole", "bin", "sign", "bush", "crate"]))
                self._place(Actor(make_clutter(kind, rng), float(s), side["kerb"] + sign * rng.uniform(2.2, 3.2)))

    def _stand(
        self, name: str, s: float, d: float, *, turn: float = 0.0, attribute: str = "", ridden: bool = True
    ) -> None:
        thing = make_object(name, self.rng, ridden=ridden)
        self._place(Actor(thing, s, float(d), float(turn), 0.0, CATEGORY[name], attribute))

    def _place(self, actor: Actor) -> None:
        thing = actor.at(self.course, 0.0)
        box = [thing.center[0], thing.center[1], thing.size[0] + 0.3, thing.size[1] + 0.3, thing.yaw]
        footprint = bev_corners(np.array([box]))
        if not overlaps(footprint, self._footprints).any():
            self._footprints = np.concatenate([self._footprints, footprint])
            self.actors.append(actor)
