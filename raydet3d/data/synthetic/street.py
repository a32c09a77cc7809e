"""One street: where its lanes, parked rows, pavements and side street lie, and how uneven its ground is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

SENSOR_HEIGHT_M = 1.73
KERB_HEIGHT_M = 0.12
PAVEMENT_M = 3.0


@dataclass(frozen=True)
class Ground:
    """The height of the road under the LiDAR: a tilted plane with long waves on it.

    Args:
        slope: Rise along x and along y.
        waves: (n, 4) rows of wave number along x, along y (radians per metre), phase, height (m).
    """

    slope: tuple[float, float]
    waves: Array

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Ground:
        """A nearly level road: about half a degree of tilt, waves of 2 cm."""
        slope = float(rng.normal(0, 0.007)), float(rng.normal(0, 0.007))
        length, heading = rng.uniform(9, 25, 3), rng.uniform(-np.pi, np.pi, 3)
        number = 2 * np.pi / length
        phase, height = rng.uniform(-np.pi, np.pi, 3), rng.uniform(0.005, 0.02, 3)
        return cls(slope, np.stack([number * np.cos(heading), number * np.sin(heading), phase, height], axis=1))

    def plane(self, x: Array | float, y: Array | float) -> Array:
        """Height of the tilted plane without its waves."""
        return np.asarray(self.slope[0] * x + self.slope[1] * y - SENSOR_HEIGHT_M)

    def height(self, x: Array | float, y: Array | float) -> Array:
        """Height at (x, y), metres in the LiDAR frame, in the arrays' own precision."""
        z = self.plane(x, y)
        for kx, ky, phase, amplitude in self.waves.tolist():
            z = z + amplitude * np.sin(kx * x + ky * y + phase)
        return z


@dataclass(frozen=True)
class Side:
    """Layout of one side of the lanes, from the lanes outward.

    Args:
        sign: 1 for the left side, -1 for the right.
        edge: Distance of the outermost lane's edge from the middle of the own lane, metres.
        parking: How cars are parked there.
        parking_width: Width of the parking strip, metres.
        behind: What stands behind the pavement.
    """

    sign: int
    edge: float
    parking: Literal["none", "parallel", "angled"]
    parking_width: float
    behind: Literal["houses", "gardens", "park", "lot"]

    @property
    def kerb(self) -> float:
        """Distance at which the pavement begins."""
        return self.edge + self.parking_width

    @property
    def back(self) -> float:
        """Distance at which the pavement ends."""
        return self.kerb + PAVEMENT_M


@dataclass(frozen=True)
class Street:
    """The street that the car with the LiDAR drives along, in coordinates (s along it, d to the left of the own lane).

    Args:
        heading: Direction of the street at the LiDAR, radians.
        curvature: Change of direction per metre.
        lane: Lane width, metres.
        lanes_right: Lanes of the own direction to the right of the own lane.
        lanes_left: Lanes to the left.
        one_way: Whether those go the same way.
        left: What lies on the left.
        right: What lies on the right.
        crossing: (s, half width) of the side street that crosses, or None.
    """

    heading: float
    curvature: float
    lane: float
    lanes_right: int
    lanes_left: int
    one_way: bool
    left: Side
    right: Side
    crossing: tuple[float, float] | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Street:
        """A street at random."""
        lane = float(rng.uniform(3.1, 3.6))
        right, left = int(rng.random() < 0.25), int(rng.integers(1, 3))
        return cls(
            heading=float(rng.normal(0, 0.06)),
            curvature=float(rng.uniform(-1, 1) / 90) if rng.random() < 0.4 else 0.0,
            lane=lane,
            lanes_right=right,
            lanes_left=left,
            one_way=bool(rng.random() < 0.2),
            left=_draw_side(1, (left + 0.5) * lane, rng),
            right=_draw_side(-1, (right + 0.5) * lane, rng),
            crossing=(float(rng.uniform(13, 33)), float(rng.uniform(3.4, 4.5))) if rng.random() < 0.4 else None,
        )

    @property
    def sides(self) -> tuple[Side, Side]:
        """Left and right."""
        return self.left, self.right

    def at(self, s: float, d: float) -> tuple[float, float, float]:
        """(x, y, direction of the street) in the LiDAR frame."""
        turn = self.curvature * s
        direction = self.heading + turn
        chord = s * np.sinc(turn / 2 / np.pi)
        x = chord * np.cos(self.heading + turn / 2) - d * np.sin(direction)
        y = chord * np.sin(self.heading + turn / 2) + d * np.cos(direction)
        return float(x), float(y), float(direction)

    def locate(self, x: Array, y: Array) -> tuple[Array, Array]:
        """(s, d) of points in the LiDAR frame: the reverse of `at`, for points less than 80 m away."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        along, across = c * x + s * y, c * y - s * x
        if self.curvature == 0.0:
            return along, across
        radius = 1 / self.curvature
        sign = np.sign(radius)
        angle = np.arctan2(sign * along, sign * (radius - across))
        return angle * radius, radius - sign * np.hypot(along, radius - across)

    def crosses(self, s: float, margin: float = 0.0) -> bool:
        """Whether the side street passes at s."""
        return self.crossing is not None and abs(s - self.crossing[0]) < self.crossing[1] + margin


def _draw_side(sign: int, edge: float, rng: np.random.Generator) -> Side:
    parking = rng.choice(["none", "parallel", "angled"], p=[0.25, 0.5, 0.25])
    width = {"none": 0.0, "parallel": 2.3, "angled": 5.2}[str(parking)]
    behind = rng.choice(["houses", "gardens", "park", "lot"], p=[0.4, 0.2, 0.15, 0.25])
    return Side(sign, edge, str(parking), width, str(behind))  # type: ignore[arg-type]
