"""Stop rules of a single trial, over the values that it has reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydet3d.errors import InputError, nearest

KEYS = ("metric", "above", "below", "after", "plateau", "min_delta")


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """One rule.

    Args:
        metric: What it looks at; the sweep's metric where None.
        above: Stop once the value is greater than this.
        below: Stop once it is less than this.
        after: Only from this epoch (iteration) on.
        plateau: Stop when so many reports in a row have brought no better value.
        min_delta: How much better counts as better, for `plateau`.
    """

    metric: str | None = None
    above: float | None = None
    below: float | None = None
    after: float = 0
    plateau: int | None = None
    min_delta: float = 0.0

    def reason(self, reports: Sequence[Mapping[str, Any]], *, metric: str, mode: str) -> str | None:
        """Return why a trial with these reports stops, in a few words; None if it goes on.

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


def _find(report: Mapping[str, Any], key: str) -> float | None:
    if key in report:
        return float(report[key])
    found = [value for name, value in report.items() if name.rsplit("/", 1)[-1] == key]
    return float(found[0]) if len(found) == 1 else None


def read_rules(file: str, given: Any) -> tuple[StopRule, ...]:
    """Read the rules of a sweep's `stop`.

    Args:
        file: The file, for messages.
        given: A rule, or a list of them.

    Raises:
        InputError: A rule is malformed.
    """
    if given is None:
        return ()
    rules = [given] if isinstance(given, Mapping) else given
    if not isinstance(rules, list) or not all(isinstance(rule, Mapping) for rule in rules):
        raise InputError(f"{file}: stop is a list of rules such as {{above: 80}} or {{plateau: 3}}, got {given!r}")
    out = []
    for rule in rules:
        for key, value in rule.items():
            if key not in KEYS:
                raise InputError(
                    f"{file}: stop has no {key!r}{nearest(str(key), KEYS) or '; it takes ' + ', '.join(KEYS)}"
                )
            if key == "metric":
                right, wanted = isinstance(value, str), "a metric's name"
            else:
                right, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
            if key == "plateau":
                right, wanted = right and isinstance(value, int) and value >= 1, "a whole number above 0"
            if not right:
                raise InputError(f"{file}: stop.{key} must be {wanted}, got {value!r}")
        if not {"above", "below", "plateau"} & set(rule):
            raise InputError(f"{file}: a stop rule says above, below or plateau, got {dict(rule)!r}")
        out.append(StopRule(**rule))
    return tuple(out)
