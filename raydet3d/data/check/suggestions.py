"""Suggest a config's point cloud range, voxels and anchors from what was counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from raydet3d.config.source_map import BASE_VARIABLES
from raydet3d.data.check.expectations import Expectations
from raydet3d.data.check.frame_checks import PILLAR_M
from raydet3d.data.check.tally import Tally

_OUTER = 0.005  # share of the objects that may lie outside, at each end
_CELLS = 8  # cells of a backbone's coarsest map: the range is a whole number of them
_MARGIN_M = 0.5  # above and below the objects


@dataclass(frozen=True)
class AnchorSuggestion:
    """An anchor of a class.

    Args:
        size: Mean dx, dy, dz in metres.
        bottom: Mean z of the bottom face.
        spread: Standard deviation of the length, as a share of its mean, from the 16 % and 84 % quantiles.
        count: Objects that it was taken from.
    """

    size: tuple[float, float, float]
    bottom: float
    spread: float
    count: int


@dataclass(frozen=True)
class Suggestions:
    """Values for a config; empty or 0 where the data do not tell.

    Args:
        point_cloud_range: Holds 99 % of the objects' centres along each axis.
        voxel_size: The config's; without one, pillars of a quarter of the narrowest class. Pillars are as high as the
            range.
        max_num_points: Holds all points of 95 % of the voxels.
        max_voxels: A tenth more than the fullest frame has.
        anchors: An anchor of each class, in the order of the classes.
        is_custom: Whether they are for own recordings, whose shipped configs have variables for them.
    """

    point_cloud_range: tuple[float, ...] = ()
    voxel_size: tuple[float, ...] = ()
    max_num_points: int = 0
    max_voxels: int = 0
    anchors: dict[str, AnchorSuggestion] = field(default_factory=dict)
    is_custom: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the suggestions as plain data."""
        return asdict(self)

    def _as_base_variables(self) -> str:
        """Return the suggestions as variables of the shipped configs for own recordings."""
        values = {"class_names": list(self.anchors), "point_cloud_range": list(self.point_cloud_range)}
        values["voxel_size"] = list(self.voxel_size)
        values["anchor_sizes"] = [list(one.size) for one in self.anchors.values()]
        values["anchor_bottoms"] = [one.bottom for one in self.anchors.values()]
        lines = [f"    {name}={value}" for name, value in values.items() if value]
        return "\n".join([f"{BASE_VARIABLES} = dict(", ",\n".join(lines) + ")"]) if lines else ""

    def as_config(self) -> str:
        """Return the suggestions as lines of a config."""
        if self.is_custom:
            return self._as_base_variables()
        lines = []
        if self.point_cloud_range:
            lines.append(f"point_cloud_range = {list(self.point_cloud_range)}")
        if self.voxel_size:
            lines.append(f"voxel_size = {list(self.voxel_size)}")
        if self.max_voxels:
            lines += [f"max_num_points = {self.max_num_points}", f"max_voxels = {self.max_voxels}"]
        if self.anchors and self.point_cloud_range:
            x0, y0, _, x1, y1, _ = self.point_cloud_range
            lines.append("anchor_generator = dict(")
            lines.append("    ranges=[")
            for name, one in self.anchors.items():
                lines.append(f"        [{x0}, {y0}, {one.bottom}, {x1}, {y1}, {one.bottom}],  # {name}")
            lines += ["    ],", "    sizes=["]
            lines += [f"        {list(one.size)},  # {name}" for name, one in self.anchors.items()]
            lines += ["    ])"]
        return "\n".join(lines)


def suggest(
    trained: Tally, expected: Expectations, *, order: Sequence[str] = (), is_custom: bool = False
) -> Suggestions:
    """Return suggestions for those classes of the config that have objects; without any, for all classes that have.

    Args:
        trained: Counts of the splits that are trained on.
        expected: What the config expects.
        order: Classes of the data set in their order; others follow.
        is_custom: Whether the data are own recordings.
    """
    ordered = [name for name in dict.fromkeys([*order, *sorted(trained.classes)]) if trained.classes.get(name)]
    names = [name for name in expected.classes if trained.classes.get(name)] or ordered
    objects = Tally()
    for name in names:
        objects.merge(trained.classes[name])
    anchors = {name: _suggest_anchor(trained.classes[name]) for name in names}
    voxel = expected.voxel_size or _suggest_pillar(anchors)
    source = objects if names else trained
    if not source.histograms:
        return Suggestions()
    cell = (voxel or (PILLAR_M, PILLAR_M))[0] * _CELLS
    x, y = (_span(source, axis, cell) for axis in "xy")
    if names:
        z = (
            _round_down(objects.histogram("bottom").quantile(_OUTER) - _MARGIN_M, 0.5),
            -_round_down(-objects.histogram("top").quantile(1 - _OUTER) - _MARGIN_M, 0.5),
        )
    else:
        z = _span(trained, "z", 0.5)
    voxels, points = trained.histogram("voxels of a frame"), trained.histogram("points of a voxel")
    if voxel and (len(voxel) == 2 or _are_pillars(expected)):
        voxel = (*voxel[:2], round(z[1] - z[0], 2))
    return Suggestions(
        point_cloud_range=(x[0], y[0], z[0], x[1], y[1], z[1]),
        voxel_size=voxel,
        max_num_points=int(points.quantile(0.95)) if len(points) else 0,
        max_voxels=math.ceil(1.1 * voxels.high / 1000) * 1000 if len(voxels) else 0,
        anchors=anchors,
        is_custom=is_custom,
    )


def _suggest_anchor(objects: Tally) -> AnchorSuggestion:
    length, width, height = (round(objects.histogram(side).mean, 2) for side in ("length", "width", "height"))
    lengths = objects.histogram("length")
    spread = (lengths.quantile(0.84) - lengths.quantile(0.16)) / 2 / lengths.mean
    bottom = round(objects.histogram("bottom").mean, 2)
    return AnchorSuggestion((length, width, height), bottom, round(spread, 3), objects.counts["objects"])


def _suggest_pillar(anchors: dict[str, AnchorSuggestion]) -> tuple[float, ...]:
    """Return a pillar's dx, dy: a quarter of the narrowest class, from 0.04 to 0.4 m in steps of 0.04 m."""
    if not anchors:
        return ()
    narrowest = min(min(one.size[:2]) for one in anchors.values())
    side = round(0.04 * min(max(round(narrowest / 4 / 0.04), 1), 10), 2)
    return side, side


def _are_pillars(expected: Expectations) -> bool:
    """Return whether the voxels of a config are as high as its range."""
    limits = expected.point_cloud_range
    return bool(limits) and expected.voxel_size[2] >= limits[5] - limits[2]


def _span(tally: Tally, axis: str, step: float) -> tuple[float, float]:
    """Return where most values lie along an axis, rounded outwards.

    It begins at the sensor where they begin near it, and reaches equally far to both sides of a sensor among them,
    because training flips the scene.
    """
    values = tally.histogram(axis)
    low, high = values.quantile(_OUTER), values.quantile(1 - _OUTER)
    if low < 0 < high and axis != "z":
        low, high = min(low, -high), max(high, -low)
    low = 0.0 if 0 < low < 15 else _round_down(low, step)
    return low, -_round_down(-high, step)


def _round_down(value: float, step: float) -> float:
    return round(math.floor(value / step + 1e-6) * step, 4) + 0.0
