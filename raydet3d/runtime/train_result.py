"""The result of a training run: its scores, checkpoints and folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

FEW = 12  # metrics that are all shown; where there are more, hooks say which


class TrainResult(TypedDict):
    """What `Runner.train` returns.

    Keys:
        metrics: All numbers of the last validation.
        headline: The metrics that count, by the last part of their name.
        best_score, best_checkpoint, last_checkpoint: Of the checkpoint hook; None without it.
        not_kept: Checkpoints that could not be written, with the reasons.
        log_dir, picture_dir: Folders; no picture folder where nothing was drawn.
        epoch, iter, seconds: What was done, and how long it took.
    """

    metrics: dict[str, float]
    headline: dict[str, float]
    best_score: float | None
    best_checkpoint: str | None
    last_checkpoint: str | None
    not_kept: dict[str, str]
    log_dir: str
    picture_dir: str | None
    epoch: int
    iter: int
    seconds: float


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
