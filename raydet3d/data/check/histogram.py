"""`Histogram`: counts in bins of equal width, without limits, that can be merged and stored as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike


class HistogramRecord(TypedDict):
    """A histogram as JSON: the width of a bin, (bin, count) pairs, sum, least and greatest value."""

    step: float
    bins: list[tuple[int, int]]
    sum: float
    low: float
    high: float


@dataclass
class Histogram:
    """Counts of values in bins `[k * step, (k + 1) * step)`.

    Args:
        step: Width of a bin; 1 for whole numbers, whose quantiles are then exact.
        bins: Count by number of the bin.
        sum: Sum of the values.
        low: Least value.
        high: Greatest value.
    """

    step: float = 1.0
    bins: dict[int, int] = field(default_factory=dict)
    sum: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def __len__(self) -> int:
        return sum(self.bins.values())

    def add(self, values: ArrayLike, *, limit: float = np.inf) -> None:
        """Count finite values; those beyond `limit` (to both sides) are counted in the bin there."""
        array = np.asarray(values, dtype=np.float64).ravel()
        if not array.size:
            return
        self.sum += float(array.sum())
        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))
        if limit < np.inf:
            array = np.clip(array, -limit, limit)
        places = np.floor(array / self.step).astype(np.int64)
        first = int(places.min())
        if int(places.max()) - first < 100_000:
            counts = np.bincount(places - first)
            numbers = np.flatnonzero(counts)
            counts = counts[numbers]
        else:
            numbers, counts = np.unique(places - first, return_counts=True)
        for number, count in zip((numbers + first).tolist(), counts.tolist(), strict=True):
            self.bins[number] = self.bins.get(number, 0) + count

    def merge(self, other: Self) -> None:
        """Add the counts of a histogram of the same step."""
        self.sum += other.sum
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for number, count in other.bins.items():
            self.bins[number] = self.bins.get(number, 0) + count

    @property
    def mean(self) -> float:
        """Return the mean value, NaN without values."""
        count = len(self)
        return self.sum / count if count else float("nan")

    def quantile(self, share: float) -> float:
        """Return the value below which a share of the values lies: interpolated within its bin, NaN without values."""
        if not self.bins:
            return float("nan")
        numbers = np.array(sorted(self.bins))
        ends = np.cumsum([self.bins[int(number)] for number in numbers])
        place = share * ends[-1]
        k = min(int(np.searchsorted(ends, place)), len(numbers) - 1)
        begin = ends[k - 1] if k else 0
        inner = 0.0 if self.step == 1 else (place - begin) / (ends[k] - begin)
        return float(np.clip((numbers[k] + inner) * self.step, self.low, self.high))

    def bars(self, count: int = 30) -> list[tuple[float, float, int]]:
        """Return (begin, end, count) of about `count` bars of equal width that cover all bins."""
        if not self.bins:
            return []
        first, last = min(self.bins), max(self.bins)
        width = max(1, -(-(last - first + 1) // count))
        totals = [0] * ((last - first) // width + 1)
        for number, here in self.bins.items():
            totals[(number - first) // width] += here
        return [
            ((first + k * width) * self.step, (first + (k + 1) * width) * self.step, total)
            for k, total in enumerate(totals)
        ]

    def to_json(self) -> HistogramRecord:
        """Return the histogram as plain data."""
        has_values = bool(self.bins)
        return {
            "step": self.step,
            "bins": sorted(self.bins.items()),
            "sum": self.sum,
            "low": self.low if has_values else 0.0,
            "high": self.high if has_values else 0.0,
        }

    @classmethod
    def from_json(cls, record: HistogramRecord) -> Self:
        """Return the histogram that `to_json` stored."""
        out = cls(record["step"], {int(number): count for number, count in record["bins"]}, record["sum"])
        if out.bins:
            out.low, out.high = record["low"], record["high"]
        return out
