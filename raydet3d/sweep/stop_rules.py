"""Stop rules of a single trial, over the values that it has reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raydet3d.config.type_check import PositiveInt, read_section
from raydet3d.errors import InputError
from raydet3d.sweep.domains import Value


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """One rule.

    Args:
        metric: What it looks at; the sweep's metric where None.
        above: Stop once the value is greater than this.
        below: Stop once it is less than this.
        after: Only from this epoch (iteration) on.
        plateau: Stop after this many consecutive reports without a better value.
        min_delta: How much better counts as better, for `plateau`.
    """

    metric: str | None = None
    above: float | None = None
    below: float | None = None
    after: float = 0
    plateau: PositiveInt | None = None
    min_delta: float = 0.0

    def reason(self, reports: Sequence[Mapping[str, float]], *, metric: str, mode: str) -> str | None:
        """Return briefly why a trial with these reports stops; None if it continues.

        Args:
            reports: Its reports, oldest first; each has `at` and `score` beside the metrics.
            metric: Whole name of the sweep's metric.
            mode: Whether `max` or `min` of the sweep's metric is better; a plateau of another metric is of its
                greatest value.
        """
        key = self.metric or "score"
        if not reports or reports[-1]["at"] < self.after:
            return None
        value = _find(reports[-1], key)
        if value is None:
            return None
        name = (self.metric or "metric").rsplit("/", 1)[-1]
        if self.above is not None and value > self.above:
            return f"stop rule: {name} {value:.4g} > {self.above:g}"
        if self.below is not None and value < self.below:
            return f"stop rule: {name} {value:.4g} < {self.below:g}"
        if self.plateau is not None:
            is_sweeps = self.metric in (None, metric, metric.rsplit("/", 1)[-1])
            sign = -1.0 if is_sweeps and mode == "min" else 1.0
            values = [sign * v for v in (_find(report, key) for report in reports) if v is not None]
            best, since = -math.inf, 0
            for v in values:
                best, since = (v, 0) if v > best + self.min_delta else (best, since + 1)
            if since >= self.plateau:
                return f"stop rule: {name} no better for {since} reports"
        return None


def matching_metrics(wanted: str, names: Iterable[str]) -> list[str]:
    """Return the metric of a name, or else the metrics of which it is the last part."""
    known = list(names)
    return [wanted] if wanted in known else [name for name in known if name.endswith(f"/{wanted}")]


def _find(report: Mapping[str, float], key: str) -> float | None:
    found = matching_metrics(key, report)
    return float(report[found[0]]) if len(found) == 1 else None


def read_rules(given: Mapping[str, Value] | Sequence[Mapping[str, Value]] | None) -> tuple[StopRule, ...]:
    """Read the rules of a sweep's `stop`: a rule, or a list of them.

    Raises:
        InputError: A rule is malformed.
    """
    out = []
    for item in [given] if isinstance(given, Mapping) else given or []:
        rule = read_section(StopRule, item, "stop")
        if rule.above is None and rule.below is None and rule.plateau is None:
            raise InputError(f"a stop rule says above, below or plateau, got {dict(item)!r}")
        out.append(rule)
    return tuple(out)
