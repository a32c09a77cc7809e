"""`BaseMetric`: collect results per sample on every rank, gather them, compute once."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from raydet3d.config import ConfigDict
from raydet3d.dist import broadcast_object, collect_results, is_main_process
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.metrics.analysis import Analysis


class BaseMetric(ABC):
    """A metric over a whole data set.

    Override `process`, which appends to `self.results`, and `compute_metrics`, which gets those of all ranks.

    Args:
        collect_device: `cpu` or `gpu`; accepted for compatibility. Results are gathered through the process group.
        prefix: Prefix of every result's name (`prefix/name`); the class's `default_prefix` by default.
        collect_dir: Accepted for compatibility; nothing is written to disk.

    Attributes:
        dataset_meta: The data set's meta information; set before the first `process`.
        results: Results that `process` has appended since the last `evaluate`.
        logger: Where tables and warnings go; a run sets its own.
        analysis: Why the scores of the newest evaluation are what they are, for `analysis.json`; on rank 0, of metrics
            that analyse.
    """

    default_prefix: ClassVar[str | None] = None
    info_hint: ClassVar[str] = ""
    """What makes the info file `ann_file`, for messages; empty for a metric that reads none."""

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None, collect_dir: str | None = None) -> None:
        name = type(self).__name__
        if collect_device not in ("cpu", "gpu"):
            raise InputError(f"{name}: collect_device must be 'cpu' or 'gpu', got {collect_device!r}")
        if collect_dir is not None:
            get_logger().warning("%s: collect_dir is ignored; results are gathered without files", name)
        self.collect_device = collect_device
        self.prefix = prefix or self.default_prefix
        self.dataset_meta: Mapping[str, Any] | None = None
        self.results: list[Any] = []
        self.logger: logging.Logger = get_logger()
        self.analysis: Analysis | None = None

    @classmethod
    def check_data(cls, cfg: ConfigDict) -> None:
        """Check before training that the files that the metric reads exist: `ann_file`, where there is `info_hint`.

        Args:
            cfg: The metric's config.

        Raises:
            InputError: One does not exist.
        """
        ann_file = Path(cfg.get("ann_file", ""))
        if cls.info_hint and not ann_file.is_file():
            raise InputError(
                f"ann_file {ann_file}: no such info file; the metric needs its whole path (mind the last '/' of "
                f"data_root); {cls.info_hint}"
            )

    def names(self) -> list[str] | None:
        """Return the names of the results, or None if they are not known before an evaluation.

        Names that hooks wait for (`save_best`) are checked against them before training.
        """
        return None

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Append one entry per sample to `self.results`.

        Args:
            data_batch: The batch as the loader gave it.
            data_samples: What the model returned, as dicts.
        """

    @abstractmethod
    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Compute named results from the entries of all samples, in the data set's order; called on rank 0 only."""

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return the results of all samples since the last call, the same on every rank.

        Args:
            size: Number of samples in the data set; further entries are repetitions by the sampler and are dropped.
        """
        if not self.results:
            self.logger.warning(
                "%s has nothing to evaluate: process() appended nothing to self.results", type(self).__name__
            )
        everything = collect_results(self.results, size)
        self.results = []
        metrics: dict[str, Any] | None = None
        try:
            if is_main_process():
                computed = self.compute_metrics(everything or [])
                metrics = {f"{self.prefix}/{key}" if self.prefix else key: v for key, v in computed.items()}
        finally:
            # Also if rank 0 failed: the other ranks must not wait for ever.
            metrics = broadcast_object(metrics)
        if metrics is None:
            raise RuntimeError(f"{type(self).__name__} failed on rank 0; its message says why")
        return metrics
