"""Which of two scores is better, told from the metric's name where nobody says; and a validation's score of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from raydet3d.errors import InputError

GREATER_KEYS = ("acc", "top", "AR@", "auc", "precision", "mAP", "mDice", "mIoU", "mAcc", "aAcc", "AP", "NDS", "recall")
"""Names, or parts of them, of metrics of which more is better: MMEngine's, and those of 3D detection."""
LESS_KEYS = ("loss",)


def infer_rule(
    metric: str,
    greater: Sequence[str] = GREATER_KEYS,
    less: Sequence[str] = LESS_KEYS,
    *,
    owner: str,
    key: str,
) -> str:
    """Whether ``greater`` or ``less`` of a metric is better: by its name, else by a part of it; case does not count.

    Args:
        metric: The metric.
        greater: Names of which greater is better.
        less: Those of which less is.
        owner: Who asks, for the message.
        key: The argument that names the metric, for the message.

    Raises:
        InputError: The name does not tell.
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


def given_score(metrics: Mapping[str, Any], metric: str, *, owner: str, key: str) -> float:
    """A metric's score.

    Args:
        metrics: What a validation gave.
        metric: Its name.
        owner: Who asks, for the message.
        key: The argument that names the metric, for the message.

    Raises:
        InputError: Validation did not give it; the message names the nearest.
    """
    scores = numbers(metrics)
    if metric in scores:
        return scores[metric]
    ending = [name for name in scores if name.endswith(metric)]
    near = (ending or difflib.get_close_matches(metric, scores, n=3, cutoff=0.6) or list(scores))[:3]
    more = f" and {len(scores) - len(near)} others" if len(scores) > len(near) else ""
    raise InputError(f"{owner}: {key}={metric!r}, but validation gave {', '.join(near) or 'nothing'}{more}")


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those of a validation's metrics that are numbers, of one-element tensors and arrays too."""
    found = {}
    for name, value in metrics.items():
        if hasattr(value, "item") and getattr(value, "size", None) is not None:
            size = value.numel() if hasattr(value, "numel") else value.size
            value = value.item() if size == 1 else value
        if isinstance(value, (int, float)):
            found[name] = float(value)
    return found
