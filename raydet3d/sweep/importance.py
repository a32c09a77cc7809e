"""How much of the metric's spread each key of a sweep explains on its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet3d.sweep.results import Results

FEW = 4  # trials with a value, below which nothing is said


def importance(results: Results) -> dict[str, float]:
    """Share of the variance of the trials' best values that each key explains alone, from 0 to 1, greatest first.

    Numbers are fitted by a parabola (over their logarithm where they were drawn by it), choices by their groups' means;
    both shares are corrected for the number of terms (the adjusted R squared), so that chance alone gives about 0.

    Args:
        results: The sweep's results.
    """
    rows = [(results.values[trial.id], trial.best(results.mode)) for trial in results.trials if trial.state != "failed"]
    good = [(values, score) for values, score in rows if score is not None]
    if len(good) < FEW:
        return {}
    out = {}
    for key, kind in results.kinds.items():
        pairs = [(values[key], score) for values, score in good if key in values and fits(values[key], kind)]
        if len(pairs) >= FEW:
            given = [value for value, _ in pairs]
            scores = np.array([score for _, score in pairs], dtype=float)
            share = _by_group(given, scores) if kind == "choice" else _by_parabola(given, scores, log=kind == "log")
            if share is not None:
                out[key] = share
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def fits(value: Any, kind: str) -> bool:
    """Whether a value has a place on a key's axis: a baseline may set 0 where a range is logarithmic, or no number.

    Args:
        value: The value.
        kind: ``log``, ``linear`` or ``choice``.
    """
    if kind == "choice":
        return True
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and (kind != "log" or value > 0)


def _by_parabola(values: Sequence[float], scores: npt.NDArray[Any], *, log: bool) -> float | None:
    x = np.array([math.log(value) if log else float(value) for value in values])
    terms = min(len(set(values)) - 1, 2)
    if terms < 1:
        return None
    x = (x - x.mean()) / (x.std() or 1.0)
    fitted = np.polyval(np.polyfit(x, scores, terms), x)
    return _adjusted(scores, fitted, terms)


def _by_group(values: Sequence[Any], scores: npt.NDArray[Any]) -> float | None:
    names = [str(value) for value in values]
    groups = sorted(set(names))
    if len(groups) < 2:
        return None
    means = {name: scores[[other == name for other in names]].mean() for name in groups}
    return _adjusted(scores, np.array([means[name] for name in names]), len(groups) - 1)


def _adjusted(scores: npt.NDArray[Any], fitted: npt.NDArray[Any], terms: int) -> float | None:
    spread = float(((scores - scores.mean()) ** 2).sum())
    freedom = len(scores) - terms - 1
    if spread <= 0 or freedom < 1:
        return None
    left = float(((scores - fitted) ** 2).sum())
    return min(max(1 - (left / freedom) / (spread / (len(scores) - 1)), 0.0), 1.0)


def positions(values: Sequence[Any], kind: str) -> tuple[list[float], Mapping[float, str]]:
    """Places from 0 to 1 on an axis for a key's values, and what to write at the axis.

    Args:
        values: The values, which fit.
        kind: ``log``, ``linear`` or ``choice``.
    """
    if kind == "choice":
        names = sorted({str(value) for value in values}, key=lambda name: (not _is_number(name), _number(name), name))
        step = 1 / max(len(names) - 1, 1)
        place = {name: i * step if len(names) > 1 else 0.5 for i, name in enumerate(names)}
        return [place[str(value)] for value in values], {at: name for name, at in place.items()}
    numbers = [math.log(value) if kind == "log" else float(value) for value in values]
    low, high = min(numbers), max(numbers)
    width = (high - low) or 1.0
    ends = {0.0: f"{min(values):.4g}", 1.0: f"{max(values):.4g}"} if high > low else {0.5: f"{values[0]:.4g}"}
    return [(number - low) / width if high > low else 0.5 for number in numbers], ends


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    return float(text) if _is_number(text) else 0.0
