"""Findings of a data check: what is wrong with which file, and whether training would go wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Severity = Literal["error", "warning"]
Value: TypeAlias = "str | float | int | Sequence[Value] | None"


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Args:
        severity: `error`: training fails with it, or learns from numbers that are wrong. `warning`: worth a look.
        title: What it is, in a few words.
    """

    severity: Severity
    title: str


KINDS: Mapping[str, Kind] = {
    "empty-split": Kind("error", "splits without frames"),
    "missing-file": Kind("error", "files that do not exist"),
    "bad-file": Kind("error", "files that are damaged or cannot be read"),
    "bad-entry": Kind("error", "entries of an info file that are malformed"),
    "empty-cloud": Kind("error", "clouds without points"),
    "wrong-columns": Kind("error", "clouds with another number of columns"),
    "nonfinite-points": Kind("error", "points that are not finite"),
    "no-points-in-range": Kind("error", "clouds without a point in the config's range"),
    "unknown-label": Kind("error", "objects of classes that the data set does not have"),
    "nonfinite-box": Kind("error", "boxes that are not finite"),
    "bad-size": Kind("error", "boxes with a size of zero or less"),
    "absurd-coordinate": Kind("error", "boxes with an absurd position"),
    "absurd-size": Kind("error", "boxes with an absurd size"),
    "absurd-yaw": Kind("error", "boxes with an absurd heading"),
    "unknown-class": Kind("error", "classes of the config that the data set does not have"),
    "contradiction": Kind("error", "sections of the config that contradict each other"),
    "class-out-of-range": Kind("error", "classes whose objects lie outside of the config's range"),
    "class-without-objects": Kind("warning", "classes without an object to train on"),
    "shared-frame": Kind("warning", "frames shared by splits"),
    "duplicate-frame": Kind("warning", "frames with the same point cloud"),
    "duplicate-box": Kind("warning", "boxes that are in a frame twice"),
    "box-without-points": Kind("warning", "boxes without a point"),
    "box-outside-range": Kind("warning", "boxes outside of the config's range"),
    "absurd-points": Kind("warning", "points with an absurd position"),
    "anchor-size": Kind("warning", "anchors whose size does not fit the objects"),
    "anchor-height": Kind("warning", "anchors whose height does not fit the objects"),
    "voxel-limit": Kind("warning", "voxel limits that drop points"),
}
"""Kinds of findings by name, the gravest first."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the data, or does not fit the config.

    Args:
        kind: One of `KINDS`.
        file: The file to mend.
        value: The value at fault.
        sentence: What is wrong, for a reader.
        split: The split.
        index: Position of the frame in its split; None for what concerns no single frame.
        object: Position of the object in its frame; None for what concerns no single object.
    """

    kind: str
    file: str
    value: Value
    sentence: str
    split: str = ""
    index: int | None = None
    object: int | None = None

    @property
    def severity(self) -> Severity:
        """Return `error` or `warning`."""
        return KINDS[self.kind].severity

    def to_json(self) -> dict[str, Value]:
        """Return the finding as plain data; numbers that are not finite become text, which JSON has no number for."""
        return {"severity": self.severity, **asdict(self), "value": plain(self.value)}


def plain(value: Value) -> Value:
    """Return a value as JSON has it: numbers that are not finite as text, other numbers with at most 6 digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, str) or value is None or isinstance(value, int):
        return value
    return [plain(one) for one in value]
