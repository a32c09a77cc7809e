"""`dataset.json` of a folder of own recordings: axes, units, columns and class names that its files use.

Everything is converted as it is read to raydet3d's frame: x forward, y left, z up, metres; boxes with the centre of
their bottom face, sizes (length, width, height) and the yaw counter-clockwise around z, 0 along +x.
Legend: N points · K boxes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, Predicate
from numpy.typing import NDArray

from raydet3d.config.type_check import Described, NonNegativeInt, read_section
from raydet3d.data.point_cloud_file import COLUMNS, read_fields, select_columns
from raydet3d.errors import InputError
from raydet3d.ops.points import limit_period

Floats = NDArray[np.float64]
Direction = Literal["forward", "backward", "left", "right", "up", "down"]
Side = Literal["length", "width", "height"]
Color = tuple[int, int, int]

FILE = "dataset.json"

CLOUDS = "points_prepared"
"""Folder of the clouds that were converted."""

_DIRECTIONS: dict[str, tuple[int, int, int]] = {
    **{"forward": (1, 0, 0), "backward": (-1, 0, 0), "left": (0, 1, 0)},
    **{"right": (0, -1, 0), "up": (0, 0, 1), "down": (0, 0, -1)},
}
_LENGTH_M = {"m": 1.0, "cm": 0.01, "mm": 0.001, "ft": 0.3048}
_TIME_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _spans_space(axes: Sequence[str]) -> bool:
    return {abs(_DIRECTIONS[name][i]) * (i + 1) for name in axes for i in range(3)} == {0, 1, 2, 3}


def _is_permutation(sides: Sequence[str]) -> bool:
    return len(set(sides)) == 3


@dataclass(frozen=True)
class Units:
    """Units of all numbers in the folder's files.

    Args:
        length: Of points, boxes, poses and velocities (which are per second).
        angle: Of yaws.
        time: Of timestamps.
    """

    length: Literal["m", "cm", "mm", "ft"] = "m"
    angle: Literal["rad", "deg"] = "rad"
    time: Literal["s", "ms", "us", "ns"] = "s"


@dataclass(frozen=True)
class Yaw:
    """Where a yaw is 0, and which way it grows, seen from above.

    Args:
        zero: Direction of a box with yaw 0; that of the first axis by default.
        direction: Which way it grows.
    """

    zero: Literal["forward", "backward", "left", "right"] | None = None
    direction: Literal["counterclockwise", "clockwise"] = "counterclockwise"


@dataclass(frozen=True)
class ClassEntry:
    """A class to train.

    Args:
        labels: Names in the label files that mean it, besides its own.
        color: Red, green, blue, 0 to 255.
        size: Typical length, width, height in metres.
    """

    labels: Sequence[str] = ()
    color: Color | None = None
    size: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Conventions:
    """Content of `dataset.json`; every key may be left out, and so may the file.

    Args:
        axes: Directions of the recorder's x, y and z axes.
        units: Units of the files.
        yaw: Where a yaw is 0, and which way it grows.
        size: Order of the three numbers of a box's size.
        box_origin: What a box's position is: the `center` of the box (JSON labels, by default) or of its `bottom` face
            (labels of one line each, by default).
        columns: Columns of .bin and .npy clouds; the other formats name their own.
        dtype: Numbers of .bin clouds, little-endian.
        features: Columns to keep, x, y, z first. By default x, y, z, intensity, and time where there are sweeps.
        scale: Factors of columns, such as 0.00392 for an intensity up to 255.
        classes: Classes to train, in order: names, or a dict of names with `labels`, `color` and `size`. By default all
            names of the label files.
        ignore: Names in the label files that are left out.
        sweeps: Earlier clouds that a frame may be joined with, where timestamps and poses are known.
        lidar2ego: (4, 4) pose of the LiDAR in the frame whose poses `frames.jsonl` gives, in the recorder's axes and
            units; the LiDAR's own poses by default.
    """

    axes: Annotated[
        tuple[Direction, Direction, Direction],
        Predicate(_spans_space),
        Described("three directions at right angles, each one of " + ", ".join(_DIRECTIONS)),
    ] = ("forward", "left", "up")
    units: Units = field(default_factory=Units)
    yaw: Yaw = field(default_factory=Yaw)
    size: Annotated[
        tuple[Side, Side, Side], Predicate(_is_permutation), Described("length, width and height in their order")
    ] = ("length", "width", "height")
    box_origin: Literal["center", "bottom"] | None = None
    columns: Sequence[str] = COLUMNS
    dtype: Literal["float32", "float64"] = "float32"
    features: Sequence[str] | None = None
    scale: Mapping[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    classes: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None
    ignore: Sequence[str] = ()
    sweeps: NonNegativeInt = 10
    lidar2ego: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        if self.features is not None and list(self.features[:3]) != ["x", "y", "z"]:
            raise InputError(f"features must begin with x, y, z, got {list(self.features)}")
        if self.yaw.zero is None and self.axes[0] in ("up", "down"):
            raise InputError(f"yaw.zero must be given, because the first of axes, {self.axes[0]!r}, is no heading")
        if self.lidar2ego is not None and np.shape(self.lidar2ego) != (4, 4):
            raise InputError(f"lidar2ego must be 4 rows of 4 numbers, got {self.lidar2ego!r}")
        _ = self.class_of

    # --------------------------------------------------------------------------------------------------------- classes

    @cached_property
    def entries(self) -> dict[str, ClassEntry] | None:
        """The classes to train; None where those of the label files are taken."""
        if self.classes is None:
            return None
        if isinstance(self.classes, Mapping):
            return {name: read_section(ClassEntry, given, f"classes.{name}") for name, given in self.classes.items()}
        return {name: ClassEntry() for name in self.classes}

    @cached_property
    def class_of(self) -> dict[str, str | None]:
        """Class of each name in the label files; None for those to leave out."""
        found: dict[str, str | None] = dict.fromkeys((*self.ignore, "DontCare"))
        for name, entry in (self.entries or {}).items():
            for label in (name, *entry.labels):
                if found.get(label, name) != name:
                    raise InputError(f"classes: the label {label!r} is one of {found[label]!r} and one of {name!r}")
                found[label] = name
        return found

    # ---------------------------------------------------------------------------------------------------------- frames

    @property
    def length_m(self) -> float:
        """The recorder's unit of length in metres."""
        return _LENGTH_M[self.units.length]

    @property
    def time_s(self) -> float:
        """The recorder's unit of time in seconds."""
        return _TIME_S[self.units.time]

    @property
    def rotation(self) -> Floats:
        """(3, 3) from the recorder's axes to ours: a permutation with signs."""
        return np.array([_DIRECTIONS[name] for name in self.axes], dtype=np.float64).T

    def convert_points(self, points: Floats) -> Floats:
        """Convert the first three columns of (N, 3+) positions; the others are copied."""
        out = points.copy()
        out[:, :3] = points[:, :3] @ (self.rotation.T * self.length_m)
        return out

    def convert_vectors(self, vectors: Floats) -> Floats:
        """Convert (N, 2 or 3) velocities, in the recorder's unit of length a second, to (N, 2) vx, vy."""
        three = np.zeros((len(vectors), 3))
        three[:, : vectors.shape[1]] = vectors
        return np.asarray((three @ (self.rotation.T * self.length_m))[:, :2])

    def convert_boxes(self, boxes: Floats, origin: str) -> Floats:
        """Convert boxes.

        Args:
            boxes: (K, 7) position, size in the order of `size`, yaw, in the recorder's axes and units.
            origin: What the position is where `box_origin` is not given.

        Returns:
            (K, 7) bottom centre, length, width, height, yaw in [-pi, pi).
        """
        sides: Floats = boxes[:, [3 + self.size.index(name) for name in ("length", "width", "height")]] * self.length_m
        position = self.convert_points(boxes[:, :3])
        if (self.box_origin or origin) == "center":
            position[:, 2] -= sides[:, 2] / 2
        zero = _DIRECTIONS[self.yaw.zero or self.axes[0]]
        turn = np.deg2rad(boxes[:, 6]) if self.units.angle == "deg" else boxes[:, 6]
        yaw = np.arctan2(zero[1], zero[0]) + (turn if self.yaw.direction == "counterclockwise" else -turn)
        return np.column_stack((position, sides, limit_period(yaw)))

    def convert_pose(self, pose: Floats) -> Floats:
        """Convert a (4, 4) pose in a frame of the same axes and unit of length."""
        out = np.eye(4)
        out[:3, :3] = self.rotation @ pose[:3, :3] @ self.rotation.T
        out[:3, 3] = self.rotation @ pose[:3, 3] * self.length_m
        return out

    def convert_lidar_to_camera(self, matrix: Floats, length_m: float) -> Floats:
        """Convert a (4, 4) transform from the recorder's LiDAR frame to a camera's (x right, y down, z front).

        Args:
            matrix: The transform.
            length_m: Unit of its translation in metres.
        """
        out = np.eye(4)
        out[:3, :3] = matrix[:3, :3] @ self.rotation.T
        out[:3, 3] = matrix[:3, 3] * length_m
        return out

    # ---------------------------------------------------------------------------------------------------------- clouds

    def kept_columns(self, *, with_time: bool) -> tuple[str, ...]:
        """Return the columns of a prepared cloud."""
        return tuple(self.features or (*COLUMNS, *(["time"] if with_time else [])))

    def read_points(self, path: Path, *, with_time: bool = False) -> NDArray[np.float32]:
        """Read a cloud in our axes and metres, without points that are not finite: (N, C) float32.

        Args:
            path: The file.
            with_time: Add the column `time`, unless `features` says what to keep.

        Raises:
            InputError: It cannot be read, or lacks a column.
        """
        names = self.kept_columns(with_time=with_time)
        fields = read_fields(path, columns=self.columns, dtype=self.dtype)
        points = select_columns(fields, names, path, optional=names[3:] if self.features is None else ("time",))
        for name, factor in self.scale.items():
            if name in names:
                points[:, names.index(name)] *= factor
        points = self.convert_points(points)
        out = points[np.isfinite(points).all(1)].astype(np.float32)
        if not len(out) and len(points):
            raise InputError(f"{path}: none of its {len(points)} points is finite")
        return out


def read_conventions(root: Path) -> Conventions:
    """Read `dataset.json` of a folder; without it, everything is as raydet3d has it.

    Raises:
        InputError: It is no JSON, or has an unknown key or a wrong value.
    """
    path = root / FILE
    if not path.is_file():
        return Conventions()
    content = read_json(path)
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if not key.startswith("_")}
    try:
        return read_section(Conventions, content, "")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Raises:
        InputError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})") from None
