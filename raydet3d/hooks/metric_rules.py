"""Infer from a metric's name whether greater or less is better; look up its score in validation metrics."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from raydet3d.errors import InputError, InputRuntimeError

GREATER_KEYS = ("acc", "top", "AR@", "auc", "precision", "mAP", "mDice", "mIoU", "mAcc", "aAcc", "AP", "NDS", "recall")
"""Names, or substrings of names, of metrics of which greater is better: MMEngine's, and those of 3D detection."""
LESS_KEYS = ("loss",)


def infer_rule(
    metric: str,
    greater: Sequence[str] = GREATER_KEYS,
    less: Sequence[str] = LESS_KEYS,
    *,
    owner: str,
    key: str,
) -> str:
    """Infer `greater` or `less` from a metric's whole name, else from a substring of it; case is ignored.

    Args:
        metric: Name of the metric.
        greater: Names of metrics of which greater is better.
        less: Names of metrics of which less is better.
        owner: Name of the calling class, for the error message.
        key: Argument that names the metric, for the error message.

    Raises:
        InputError: The name matches none of the known names.
    """
    low = metric.lower()
    for same in (lambda word: word.lower() == low, lambda word: word.lower() in low):
        if any(map(same, greater)):
            return "greater"
        if any(map(same, less)):
            return "less"
    raise InputError(f"{owner}: is more or less of {key}={metric!r} better? Say so by rule='greater' or rule='less'")


def is_better(score: float, than: float, rule: str) -> bool:
    """Whether a score is strictly better than another."""
    return score > than if rule == "greater" else score < than


def given_score(metrics: Mapping[str, object], metric: str, *, owner: str, key: str) -> float:
    """Return a metric's score.

    Args:
        metrics: Metrics of a validation.
        metric: Name of the metric.
        owner: Name of the calling class, for the error message.
        key: Argument that names the metric, for the error message.

    Raises:
        InputRuntimeError: Validation did not return the metric; the message lists the most similar names.
    """
    scores = numbers(metrics)
    if metric in scores:
        return scores[metric]
    raise InputRuntimeError(f"{owner}: {key}={metric!r}, but validation gave {nearest_metrics(list(scores), metric)}")


def nearest_metrics(names: Sequence[str], metric: str) -> str:
    """Format the names most similar to a metric, at most three, and the number of the others."""
    ending = [name for name in names if name.endswith(metric)]
    near = (ending or difflib.get_close_matches(metric, names, n=3, cutoff=0.6) or list(names))[:3]
    more = f" and {len(names) - len(near)} others" if len(names) > len(near) else ""
    return f"{', '.join(near) or 'nothing'}{more}"


def numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return the numeric metrics as floats, including one-element tensors and arrays."""
    plain = {name: to_number(value) for name, value in metrics.items()}
    return {name: float(value) for name, value in plain.items() if isinstance(value, (int, float))}


def to_number(value: object) -> object:
    """Convert a one-element tensor or array to a number; return anything else unchanged."""
    size = value.numel() if hasattr(value, "numel") else getattr(value, "size", None)
    return value.item() if size == 1 and hasattr(value, "item") else value
