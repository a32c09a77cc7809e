"""Score saved predictions again: the test evaluator on a file of `PredictionFile`, without the model and its inputs."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raydet3d.checkpoint.storage import Location, open_storage, read
from raydet3d.config import Config
from raydet3d.data.pipeline import Sample
from raydet3d.data.transforms.formatting import META_KEYS
from raydet3d.errors import InputError
from raydet3d.hooks.analysis_file import ANALYSIS, renewed_analysis
from raydet3d.log import close_logger, open_logger
from raydet3d.metrics.analysis import Analysis
from raydet3d.metrics.prediction_file import read_predictions
from raydet3d.registry import DATASETS
from raydet3d.runtime.build import build_evaluator, build_hooks
from raydet3d.runtime.headline import headline

ANNOTATION = "eval_ann_info"


@dataclass(frozen=True)
class Scores:
    """Scores of saved predictions.

    Args:
        metrics: All numbers of the metrics.
        headline: Those that count.
        analyses: Analyses of the metrics that have one.
    """

    metrics: dict[str, float]
    headline: dict[str, float]
    analyses: list[Analysis]


def score_predictions(cfg: Config, file: Path) -> Scores:
    """Score predictions on the config's test set; clouds and images are not read.

    Args:
        cfg: The config.
        file: Of `evaluate --save-predictions`.

    Raises:
        InputError: The file lacks a frame of the test set, or is of other classes.
    """
    loader = cfg.get("test_dataloader")
    if isinstance(loader, list | tuple) or loader is None:
        raise InputError("--predictions are scored on one test data set; the config has several or none")
    frames, classes = read_predictions(file)
    dataset = DATASETS.build(loader["dataset"])
    if not hasattr(dataset, "get_data_info"):
        raise InputError(f"--predictions: {type(dataset).__name__} has no get_data_info, which gives the ground truth")
    evaluator = build_evaluator(cfg["test_evaluator"], key="test_evaluator")
    evaluator.dataset_meta = dataset.metainfo
    expected = [str(name) for name in dataset.metainfo.get("classes") or ()]
    if classes != expected:
        raise InputError(f"{file} has the classes {', '.join(classes)}, the config {', '.join(expected)}")
    logger: logging.Logger = open_logger("rescore")
    for metric in evaluator.metrics:
        metric.logger = logger
    try:
        for index in range(len(dataset)):
            sample = _without_inputs(dataset.get_data_info(index))
            found = frames.get(str(sample.get("sample_idx")))
            if found is None:
                raise InputError(
                    f"{file} has no predictions of frame {sample.get('sample_idx')}, which is in the config's test set"
                )
            evaluator.process([{**found, **sample}])
        metrics = evaluator.evaluate(len(dataset))
    finally:
        close_logger(logger)
    wanted = [part for hook in build_hooks(cfg) for part in hook.headline]
    scalars = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    analyses = [found for metric in evaluator.metrics if (found := getattr(metric, "analysis", None)) is not None]
    return Scores(scalars, headline(metrics, wanted), analyses)


def write_analyses(work_dir: Location, analyses: list[Analysis], source: str) -> bool:
    """Write `analysis.json` of a work dir, from which `report` draws its sections on detections.

    Args:
        work_dir: A folder or a URI.
        analyses: Analyses of the metrics.
        source: Name of the file of predictions.

    Returns:
        Whether it was written; one with a better score stays.
    """
    storage, is_written = open_storage(work_dir), False
    for analysis in analyses:
        before = b""
        with suppress(OSError):
            before = read(storage, ANALYSIS)
        content = renewed_analysis(before, analysis, run=None, source=source)
        if content is not None:
            storage.put(ANALYSIS, content)
            is_written = True
    return is_written


def _without_inputs(info: Sample) -> Sample:
    """Return what a test's data sample has of a frame: meta information, and the annotation where there is one."""
    return {key: info[key] for key in (*META_KEYS, ANNOTATION) if key in info}
