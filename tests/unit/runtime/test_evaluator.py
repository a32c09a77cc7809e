"""Several metrics, one dict of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from raydet3d.errors import InputError
from raydet3d.metrics import BaseMetric
from raydet3d.runtime import Evaluator


class Sum(BaseMetric):
    """Sum of the predictions."""

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        self.results += [sample["value"] for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"sum": sum(results)}


class Sample:
    def __init__(self, value: float) -> None:
        self.value = value

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value}


def test_results_are_joined_and_repeated_samples_dropped() -> None:
    evaluator = Evaluator([Sum(prefix="a"), {"type": Sum, "prefix": "b"}])
    evaluator.dataset_meta = {"classes": ("Car",)}
    assert all(metric.dataset_meta == {"classes": ("Car",)} for metric in evaluator.metrics)
    assert evaluator.dataset_meta == {"classes": ("Car",)}
    evaluator.process([Sample(1), Sample(2)])
    evaluator.process([{"value": 4}, Sample(8)], data_batch=None)
    assert evaluator.evaluate(3) == {"a/sum": 7, "b/sum": 7}
    evaluator.process([Sample(1)])
    assert evaluator.evaluate(1) == {"a/sum": 1, "b/sum": 1}


def test_results_of_one_name_are_refused() -> None:
    evaluator = Evaluator([Sum(), Sum()])
    evaluator.process([Sample(1)])
    with pytest.raises(InputError, match="two metrics of the evaluator give 'sum'; set prefix="):
        evaluator.evaluate(1)
