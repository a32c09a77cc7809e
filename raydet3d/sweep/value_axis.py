"""Place the values of a sweep's keys on an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from raydet3d.sweep.domains import Value


def positions(values: Sequence[Value], kind: str) -> tuple[list[float], Mapping[float, str]]:
    """Place a key's values on an axis from 0 to 1.

    Args:
        values: Values for which `has_position` holds.
        kind: Scale of the key: `log`, `linear` or `choice`.

    Returns:
        Position of each value, and the axis labels by position.
    """
    if kind == "choice":
        named = {str(value): value for value in values}
        numeric = {name: float(value) for name, value in named.items() if _is_finite(value)}
        order = [*sorted(numeric, key=numeric.__getitem__), *sorted(set(named) - set(numeric))]
        places = {name: i / (len(order) - 1) if len(order) > 1 else 0.5 for i, name in enumerate(order)}
        return [places[str(value)] for value in values], {place: name for name, place in places.items()}
    numbers = [value for value in values if _is_finite(value)]
    scaled = [math.log(number) if kind == "log" else float(number) for number in numbers]
    low, high = min(scaled), max(scaled)
    if low == high:
        return [0.5] * len(scaled), {0.5: f"{numbers[0]:.4g}"}
    ends = {0.0: f"{min(numbers):.4g}", 1.0: f"{max(numbers):.4g}"}
    return [(number - low) / (high - low) for number in scaled], ends


def has_position(value: Value, kind: str) -> bool:
    """Whether a value has a position on a key's axis: a baseline may set 0 on a log scale, or no number at all."""
    return kind == "choice" or (_is_finite(value) and (kind != "log" or value > 0))


def _is_finite(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
