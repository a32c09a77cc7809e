"""`Tally`: counts and histograms of the frames of a split, and of the objects of each class in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, TypedDict

from numpy.typing import ArrayLike

from raydet3d.data.check.histogram import Histogram, HistogramRecord

# Width of a bin; 1 for what is not listed.
STEPS: Mapping[str, float] = {
    **dict.fromkeys(("length", "width", "height", "bottom", "top"), 0.02),
    **dict.fromkeys(("x", "y", "distance"), 0.5),
    "z": 0.1,
    "yaw": 0.1,
}


class TallyRecord(TypedDict):
    """A tally as JSON."""

    counts: dict[str, int]
    histograms: dict[str, HistogramRecord]
    classes: dict[str, TallyRecord]


@dataclass
class Tally:
    """Counts and histograms; of a split, with a tally of each class.

    Args:
        counts: Numbers of frames or objects, by what is counted.
        histograms: Histograms by what is measured.
        classes: A tally of the objects of each class.
    """

    counts: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    classes: dict[str, Tally] = field(default_factory=dict)

    def histogram(self, name: str) -> Histogram:
        """Return a histogram, empty where nothing was measured."""
        return self.histograms.get(name) or Histogram(STEPS.get(name, 1.0))

    def measure(self, name: str, values: ArrayLike, *, limit: float = 1e4) -> None:
        """Add finite values to a histogram."""
        self.histograms.setdefault(name, Histogram(STEPS.get(name, 1.0))).add(values, limit=limit)

    def of_class(self, name: str) -> Tally:
        """Return the tally of a class."""
        return self.classes.setdefault(name, Tally())

    def merge(self, other: Tally) -> None:
        """Add another tally."""
        self.counts.update(other.counts)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram(histogram.step)).merge(histogram)
        for name, tally in other.classes.items():
            self.of_class(name).merge(tally)

    def to_json(self) -> TallyRecord:
        """Return the tally as plain data."""
        return {
            "counts": dict(self.counts),
            "histograms": {name: one.to_json() for name, one in self.histograms.items()},
            "classes": {name: one.to_json() for name, one in self.classes.items()},
        }

    @classmethod
    def from_json(cls, record: TallyRecord) -> Self:
        """Return the tally that `to_json` stored."""
        return cls(
            Counter(record["counts"]),
            {name: Histogram.from_json(one) for name, one in record["histograms"].items()},
            {name: cls.from_json(one) for name, one in record["classes"].items()},
        )
