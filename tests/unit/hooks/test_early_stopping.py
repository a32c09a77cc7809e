"""EarlyStoppingHook: when it stops, and that it goes on counting after a resume (F13). MMEngine's: tests/parity."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.hooks import EarlyStoppingHook
from raydet3d.metrics import BaseMetric
from raydet3d.runtime import Runner, assemble
from tests.kit.toy import toy_cfg


class Given(BaseMetric):
    """Scores by epoch."""

    default_prefix = "my"
    scores: ClassVar[list[float]] = []
    calls: ClassVar[int] = 0

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        Given.calls += 1
        return {"AP": self.scores[self.calls - 1]}


def run(folder: Path, scores: list[float], stop: dict[str, Any], *, resume: Any = False, **changes: Any) -> Runner:
    Given.scores, Given.calls = scores, 0
    cfg = toy_cfg(folder, val_evaluator={"type": Given}, train_cfg={"max_epochs": 8}, **changes)
    cfg["custom_hooks"] = [{"type": "EarlyStoppingHook", "monitor": "my/AP", **stop}]
    runner = assemble(cfg, resume=resume)
    runner.train()
    return runner


def log_of(runner: Runner) -> str:
    return next(runner.log_dir.glob("*.log")).read_text()


def test_f13_it_goes_on_counting_after_a_resume(tmp_path: Path) -> None:
    scores = [1.0, 3.0, 2.0, 2.5, 2.9, 9.0, 9.0, 9.0]
    assert run(tmp_path / "whole", scores, {"patience": 3}).epoch == 5
    saved = torch.load(tmp_path / "whole" / "epoch_5.pth", weights_only=True)["hooks"]
    assert {"best_score": 3.0, "wait_count": 2} in [entry["state"] for entry in saved]
    # Stopped after epoch 4: the validations of epoch 4 (again) and 5 are the second and third without improvement.
    rest = run(tmp_path / "rest", scores[3:], {"patience": 3}, resume=str(tmp_path / "whole" / "epoch_4.pth"))
    assert rest.epoch == 5
    assert "my/AP has not improved in 3 validations; best 3.0000" in log_of(rest)


def test_f13_a_run_that_has_stopped_early_does_not_begin_again(tmp_path: Path) -> None:
    run(tmp_path, [3.0, 2.0, 9.0], {"patience": 1})
    again = run(tmp_path, [2.0, 9.0], {"patience": 1}, resume=True)
    assert again.epoch == 2


def test_what_an_early_end_leaves_is_saved(tmp_path: Path) -> None:
    checkpoint = {"type": "CheckpointHook", "interval": 5}
    run(tmp_path, [3.0, 2.0], {"patience": 1}, default_hooks__checkpoint=checkpoint)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_2.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_2.pth"


def test_a_score_that_is_not_finite(tmp_path: Path) -> None:
    runner = run(tmp_path / "a", [math.nan], {})
    assert runner.epoch == 1
    assert "my/AP is nan" in log_of(runner)
    assert run(tmp_path / "b", [1, math.nan, math.nan], {"check_finite": False, "patience": 2}).epoch == 3


def test_a_metric_that_validation_never_gives(tmp_path: Path) -> None:
    runner = run(tmp_path, [1.0] * 8, {"monitor": "your/AP"})
    assert runner.epoch == 8
    assert "validation gave no 'your/AP', so it decides nothing; it gave my/AP" in log_of(runner)
    with pytest.raises(InputError, match="EarlyStoppingHook: monitor='AP', but validation gave my/AP"):
        run(tmp_path, [1.0], {"monitor": "AP", "strict": True})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"monitor": "height"}, "is more or less of monitor='height' better"),
        ({"monitor": "AP", "rule": "more"}, "rule must be one of greater, less, got 'more'"),
        ({"monitor": "AP", "patience": -1}, "patience must be an integer of at least 0"),
        ({"monitor": "AP", "min_delta": -1}, "min_delta must be a number of at least 0"),
    ],
)
def test_bad_arguments(args: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EarlyStoppingHook(**args)


def test_a_threshold_that_was_passed_ends_a_resumed_run_too(tmp_path: Path) -> None:
    stop = {"rule": "greater", "stopping_threshold": 80.0}
    saved_at_its_end = {"default_hooks__checkpoint": {"type": "CheckpointHook", "interval": 5}}
    assert run(tmp_path, [50.0, 90.0], stop, **saved_at_its_end).epoch == 2
    assert run(tmp_path, [10.0] * 8, stop, resume=True, **saved_at_its_end).epoch == 2
    higher = {**stop, "stopping_threshold": 95.0, "patience": 9}
    assert run(tmp_path, [10.0] * 8, higher, resume=True, **saved_at_its_end).epoch == 8


def test_a_patience_of_zero_stops_at_the_first_validation_without_improvement() -> None:
    hook = EarlyStoppingHook(monitor="acc", patience=0)
    assert hook._judge(0.5) is None
    assert hook._judge(0.5) is not None


def test_a_loop_that_cannot_be_stopped_is_refused() -> None:
    runner: Any = SimpleNamespace(is_training=True, train_loop=object())
    with pytest.raises(AssertionError, match="stop_training"):
        EarlyStoppingHook(monitor="acc").before_run(runner)
