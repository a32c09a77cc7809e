"""Test-time augmentation: which view goes where, and what is merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models import BaseTTAModel
from raydet3d.models.tta import split_views


class Echo(nn.Module):
    def test_step(self, data: Any) -> list[Any]:
        return [f"{point}!" for point in (data["inputs"] if isinstance(data, dict) else data[0])]


class Join(BaseTTAModel):
    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        return ["+".join(views) for views in data_samples_list]


BATCHES = {
    "a dict of lists over views": {"inputs": [["a0", "b0"], ["a1", "b1"]], "data_samples": [[0, 1], [0, 1]]},
    "a list over views": [{"inputs": ["a0", "b0"]}, {"inputs": ["a1", "b1"]}],
    "a tuple of lists over views": ([["a0", "b0"], ["a1", "b1"]], [[0, 1], [0, 1]]),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_each_sample_gets_its_views(kind: str) -> None:
    model = Join(Echo())
    assert model.test_step(BATCHES[kind]) == ["a0!+a1!", "b0!+b1!"]


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="module must be a model with a test_step, got Linear"):
        Join(nn.Linear(1, 1))
    with pytest.raises(InputError, match="needs a batch of views, got int"):
        split_views(3)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="merge_preds"):
        BaseTTAModel(Echo()).test_step(BATCHES["a list over views"])  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="call test_step"):
        Join(Echo())(1)
