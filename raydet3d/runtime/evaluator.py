"""``Evaluator``: several metrics over the same predictions, one dict of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydet3d.errors import InputError
from raydet3d.registry import EVALUATOR, METRICS


@EVALUATOR.register_module()
class Evaluator:
    """Feeds each batch of predictions to every metric and joins their results.

    Args:
        metrics: A metric, a metric's config, or a list of them.
    """

    def __init__(self, metrics: Any) -> None:
        given = [metrics] if isinstance(metrics, Mapping) or not isinstance(metrics, Sequence) else list(metrics)
        self.metrics = [METRICS.build(m) if isinstance(m, Mapping) else m for m in given]
        self._dataset_meta: Mapping[str, Any] | None = None

    @property
    def dataset_meta(self) -> Mapping[str, Any] | None:
        """The data set's meta information (classes, palette), which metrics need to name their results."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: Mapping[str, Any] | None) -> None:
        self._dataset_meta = meta
        for metric in self.metrics:
            metric.dataset_meta = meta

    def process(self, data_samples: Sequence[Any], data_batch: Any = None) -> None:
        """Hand a batch of predictions to every metric.

        Args:
            data_samples: One per sample: data samples, which are turned into dicts, or dicts.
            data_batch: The batch that they belong to.
        """
        plain = [sample.to_dict() if hasattr(sample, "to_dict") else sample for sample in data_samples]
        for metric in self.metrics:
            metric.process(data_batch, plain)

    def names(self) -> list[str] | None:
        """Names of the results, where all metrics know them before anything is evaluated."""
        known = [metric.names() if hasattr(metric, "names") else None for metric in self.metrics]
        return None if None in known else [name for names in known for name in names or ()]

    def evaluate(self, size: int) -> dict[str, Any]:
        """All metrics' results, the same on every rank.

        Args:
            size: Number of samples in the data set; what samplers repeated beyond it is dropped.

        Raises:
            InputError: Two metrics name a result alike.
        """
        out: dict[str, Any] = {}
        for metric in self.metrics:
            for name, value in metric.evaluate(size).items():
                if name in out:
                    raise InputError(f"two metrics of the evaluator give {name!r}; set prefix= on one of them")
                out[name] = value
        return out
