"""Evaluate several metrics on the same predictions and merge their results into one dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydet3d.errors import InputError
from raydet3d.hooks.context import DataBatch, DataSample, PartCfg, StateDict
from raydet3d.metrics import BaseMetric
from raydet3d.registry import EVALUATOR, METRICS


@EVALUATOR.register_module()
class Evaluator:
    """Pass each batch of predictions to every metric and merge their results.

    Args:
        metrics: Metric, config of a metric, or a list of them.
    """

    def __init__(self, metrics: BaseMetric | PartCfg | Sequence[BaseMetric | PartCfg]) -> None:
        given = [metrics] if isinstance(metrics, Mapping) or not isinstance(metrics, Sequence) else list(metrics)
        self.metrics = [METRICS.build(m) if isinstance(m, Mapping) else m for m in given]
        self._dataset_meta: Mapping[str, Any] | None = None

    @property
    def dataset_meta(self) -> Mapping[str, Any] | None:
        """Metainfo of the data set (classes, palette), which metrics need to name their results."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: PartCfg | None) -> None:
        self._dataset_meta = meta
        for metric in self.metrics:
            metric.dataset_meta = meta

    def process(self, data_samples: Sequence[DataSample | StateDict], data_batch: DataBatch = None) -> None:
        """Pass a batch of predictions to every metric.

        Args:
            data_samples: Predictions, one per sample: dicts, or data samples, which are converted to dicts.
            data_batch: Batch that the predictions belong to.
        """
        plain = [sample.to_dict() if hasattr(sample, "to_dict") else sample for sample in data_samples]
        for metric in self.metrics:
            metric.process(data_batch, plain)

    def names(self) -> list[str] | None:
        """Return the names of the results if every metric provides them before the evaluation, else None."""
        known = [metric.names() if hasattr(metric, "names") else None for metric in self.metrics]
        return None if None in known else [name for names in known for name in names or ()]

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return the results of all metrics, the same on every rank.

        Args:
            size: Number of samples in the data set; samples that the sampler repeated beyond it are dropped.

        Raises:
            InputError: Two metrics return a result of the same name.
        """
        out: dict[str, Any] = {}
        for metric in self.metrics:
            for name, value in metric.evaluate(size).items():
                if name in out:
                    raise InputError(f"two metrics of the evaluator give {name!r}; set prefix= on one of them")
                out[name] = value
        return out
