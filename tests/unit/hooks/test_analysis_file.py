"""`analysis.json`: when what is there is replaced."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raydet3d.hooks.analysis_file import renewed_analysis


def content(**entries: Any) -> bytes:
    return json.dumps({"score_name": "mAP", "score": 50.0, "run": "first", **entries}).encode()


@pytest.mark.parametrize(
    ("before", "run", "is_renewed"),
    [
        (b"", "first", True),
        (b"damaged", "first", True),
        (b"[1]", None, True),
        (content(), "first", True),  # an equal score
        (content(score=51), "first", False),
        (content(score=51), "second", True),  # of a run that is no longer there
        (content(), None, True),
        (content(score=51), None, False),
        (content(score=51, score_name="NDS"), None, True),  # not to be compared
        (content(score="?"), None, True),
    ],
)
def test_a_better_score_stays(before: bytes, run: str | None, is_renewed: bool) -> None:
    found = renewed_analysis(before, {"score_name": "mAP", "score": 50.0}, run=run, source="a.pth")
    assert (found is not None) == is_renewed


def test_an_evaluation_keeps_the_run_whose_training_may_go_on() -> None:
    found = renewed_analysis(content(iter=7), {"score_name": "mAP", "score": 50.0}, run=None, source="a.pth")
    assert found is not None
    assert json.loads(found) == {"score_name": "mAP", "score": 50.0, "source": "a.pth", "run": "first"}
