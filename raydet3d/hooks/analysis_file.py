"""`analysis.json` of a work dir: the analysis of detections that reports are made from, and when it is replaced."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TypedDict, cast

ANALYSIS = "analysis.json"


class ScoredAnalysis(TypedDict, total=False):
    """What is compared of an analysis (`raydet3d.metrics.analysis`); greater scores are better."""

    score_name: str
    score: float
    run: str | None


def renewed_analysis(before: bytes, analysis: ScoredAnalysis, *, run: str | None, **about: str | int) -> bytes | None:
    """Return the new content of `analysis.json`, or None where what is there has a better score and stays.

    A training compares with its own validations only, and an evaluation with whatever has the same score.

    Args:
        before: Content of the file; empty if there is none.
        analysis: New analysis.
        run: Name of the run that trains; None for an evaluation on its own.
        **about: Further entries: what was evaluated.
    """
    found: object = None
    with suppress(ValueError):
        found = json.loads(before)
    old = cast(ScoredAnalysis, found) if isinstance(found, dict) else ScoredAnalysis()
    is_comparable = old.get("run") == run if run else old.get("score_name") == analysis.get("score_name")
    best = old.get("score")
    if is_comparable and isinstance(best, int | float) and best > analysis["score"]:
        return None
    # The run is kept: if its training goes on, its next validations are compared with this score.
    return json.dumps({**analysis, **about, "run": run or old.get("run")}).encode()
