"""The metrics that count in the result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FEW = 12  # metrics that are all shown; where there are more, hooks say which


def headline(metrics: Mapping[str, object], wanted: Sequence[str]) -> dict[str, float]:
    """Select the metrics that count, by the last part of their name.

    Args:
        metrics: All metrics of a validation.
        wanted: Parts of the names that count; where none matches, all metrics count if they are few.
    """
    scalars = {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}
    found = {key: value for key, value in scalars.items() if any(part in key for part in wanted)}
    if not found and len(scalars) <= FEW:
        found = scalars
    short = [key.rsplit("/", 1)[-1] for key in found]
    unique = len(set(short)) == len(short)
    return dict(zip(short if unique else found, found.values(), strict=True))
