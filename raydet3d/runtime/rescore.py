"""Score saved predictions again: the test evaluator on a file of `PredictionFile`, without the model and its inputs."""

from __future__ import annotations

import logging
from pathlib import Path

from raydet3d.config import Config
from raydet3d.data.pipeline import Sample
from raydet3d.data.transforms.formatting import META_KEYS
from raydet3d.errors import InputError
from raydet3d.log import close_logger, open_logger
from raydet3d.metrics.prediction_file import read_predictions
from raydet3d.registry import DATASETS
from raydet3d.runtime.build import build_evaluator, build_hooks
from raydet3d.runtime.train_result import headline

ANNOTATION = "eval_ann_info"


def score_predictions(cfg: Config, file: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Score predictions on the config's test set; clouds and images are not read.

    Args:
        cfg: The config.
        file: Of `evaluate --save-predictions`.

    Returns:
        All numbers of the metrics, and those that count.

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
    return scalars, headline(metrics, wanted)


def _without_inputs(info: Sample) -> Sample:
    """Return what a test's data sample has of a frame: meta information, and the annotation where there is one."""
    return {key: info[key] for key in (*META_KEYS, ANNOTATION) if key in info}
