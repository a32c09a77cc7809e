"""Reports of steps that were left out: which iteration, which samples, whose loss."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydet3d.hooks.guard import BadSteps
from raydet3d.runtime.history import History


def runner(found: tuple[int, int], losses: list[float]) -> Any:
    history = History()
    for loss in losses:
        history.update_scalar("train/loss", torch.tensor(loss))
    wrapper = SimpleNamespace(read_bad_steps=lambda: found)
    return SimpleNamespace(optim_wrapper=wrapper, message_hub=history, rank=1, logger=logging.getLogger("guard"))


def noted(count: int) -> BadSteps:
    steps = BadSteps()
    for i in range(1, count + 1):
        steps.note(i, {"data_samples": [SimpleNamespace(sample_idx=10 * i)]})
    return steps


def test_a_rank_whose_loss_was_fine_warns_and_the_one_at_fault_errs(caplog: pytest.LogCaptureFixture) -> None:
    noted(3).report(runner((1, 2), [1.0, 2.0, 3.0]))
    noted(3).report(runner((1, 2), [1.0, float("nan"), 3.0]))
    fine, fault = caplog.records
    assert fine.levelno == logging.WARNING
    assert "the loss was finite here" in fine.getMessage()
    assert fault.levelno == logging.ERROR  # also shown by ranks that show errors only
    assert "first at iteration 2 (rank 1, samples [20]); the loss of this rank was not finite" in fault.getMessage()


def test_silence_where_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    steps = noted(3)
    steps.report(runner((0, -1), [1.0]))
    steps.note(4, [1, 2])  # a batch of a user's own shape
    assert not caplog.records
    assert steps._seen == {4: []}
