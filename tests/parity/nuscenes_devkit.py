"""Scores of the nuScenes devkit for random and degenerate predictions; `test_nuscenes_devkit.py` compares ours.

Run with the environment of the reference (devkit 1.2.0), from the project's root:

    PYTHONPATH=. PYTHON tests/parity/nuscenes_devkit.py
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".json.gz")
CLASSES = (
    *("car", "truck", "bus", "trailer", "construction_vehicle"),
    *("pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier"),
)
ATTRIBUTES = (
    *("cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing"),
    *("pedestrian.sitting_lying_down", "vehicle.moving", "vehicle.parked", "vehicle.stopped"),
)
Columns = dict[str, Any]


def make_cases() -> dict[str, tuple[Columns, Columns]]:
    """Return truth and predictions of each case, as columns."""
    cases = {f"random {seed}": _random(seed) for seed in range(6)}
    truth, found = _random(10)
    cases["nothing predicted"] = truth, _rows(found, slice(0, 0))
    cases["one prediction"] = truth, _rows(found, slice(0, 1))
    cases["equal scores"] = truth, {**found, "score": np.full(len(found["score"]), 0.5)}
    cases["few scores"] = truth, {**found, "score": np.round(found["score"], 1)}
    cases["no velocity known"] = {**truth, "velocity": np.full_like(truth["velocity"], np.nan)}, found
    cases["no attribute known"] = {**truth, "attribute": np.full_like(truth["attribute"], -1)}, found
    cases["perfect"] = truth, {**truth, "score": np.linspace(1, 0.1, len(truth["frame"]))}
    cases["everything twice"] = truth, _rows(found, np.repeat(np.arange(len(found["frame"])), 2))
    cases["cars only"] = _rows(truth, truth["label"] == 0), _rows(found, found["label"] == 0)
    cases["one object"] = _rows(truth, slice(0, 1)), found
    return cases


def _rows(columns: Columns, index: Any) -> Columns:
    return {key: column[index] for key, column in columns.items()}


def _random(seed: int) -> tuple[Columns, Columns]:
    """Return objects of 12 frames, and predictions: most of them perturbed, some invented, some missing."""
    rng = np.random.default_rng(seed)
    count = 240
    truth: Columns = {
        "frame": np.sort(rng.integers(0, 12, count)),
        "label": rng.integers(0, len(CLASSES), count),
        "center": rng.uniform(-25, 25, (count, 3)),
        "size": rng.uniform(0.5, 5, (count, 3)),
        "yaw": rng.uniform(-np.pi, np.pi, count),
        "velocity": rng.normal(0, 3, (count, 2)),
        "attribute": rng.integers(-1, len(ATTRIBUTES), count),
        "score": np.zeros(count),
    }
    truth["velocity"][rng.random(count) < 0.1] = np.nan
    kept = np.flatnonzero(rng.random(count) < 0.85)
    kept = np.concatenate([kept, rng.choice(kept, 60)])
    found = _rows(truth, kept)
    found["center"] = found["center"] + rng.normal(0, 0.8, found["center"].shape)
    found["size"] = found["size"] * rng.uniform(0.7, 1.4, found["size"].shape)
    found["yaw"] = found["yaw"] + rng.normal(0, 0.7, len(kept)) + np.pi * (rng.random(len(kept)) < 0.2)
    found["velocity"] = np.nan_to_num(found["velocity"]) + rng.normal(0, 1, found["velocity"].shape)
    wrong = rng.random(len(kept)) < 0.3
    found["attribute"] = np.where(wrong, rng.integers(-1, len(ATTRIBUTES), len(kept)), found["attribute"])
    found["label"] = np.where(rng.random(len(kept)) < 0.1, rng.integers(0, 10, len(kept)), found["label"])
    found["score"] = rng.random(len(kept))
    return truth, _rows(found, np.argsort(found["frame"], kind="stable"))


def devkit_scores(truth: Columns, found: Columns) -> dict[str, Any]:
    """Return the devkit's scores."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.constants import TP_METRICS
    from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics

    def boxes(columns: Columns) -> Any:
        out = EvalBoxes()
        for frame in range(12):
            rows = []
            for i in np.flatnonzero(columns["frame"] == frame):
                yaw, attribute = columns["yaw"][i], columns["attribute"][i]
                rows.append(
                    DetectionBox(
                        sample_token=str(frame),
                        translation=tuple(columns["center"][i].tolist()),
                        size=tuple(columns["size"][i].tolist()),
                        rotation=(np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)),
                        velocity=tuple(columns["velocity"][i].tolist()),
                        detection_name=CLASSES[columns["label"][i]],
                        detection_score=float(columns["score"][i]),
                        attribute_name="" if attribute < 0 else ATTRIBUTES[attribute],
                    )
                )
            out.add_boxes(str(frame), rows)
        return out

    config = config_factory("detection_cvpr_2019")
    metrics = DetectionMetrics(config)
    a, b = boxes(truth), boxes(found)
    for name in config.class_names:
        for distance in config.dist_ths:
            data = accumulate(a, b, name, config.dist_fcn_callable, distance)
            metrics.add_label_ap(name, distance, calc_ap(data, config.min_recall, config.min_precision))
            if distance != config.dist_th_tp:
                continue
            for key in TP_METRICS:
                undefined = (name == "traffic_cone" and key in ("attr_err", "vel_err", "orient_err")) or (
                    name == "barrier" and key in ("attr_err", "vel_err")
                )
                metrics.add_label_tp(name, key, float("nan") if undefined else calc_tp(data, config.min_recall, key))
    return {
        "ap": {name: {str(d): metrics.get_label_ap(name, d) for d in config.dist_ths} for name in config.class_names},
        "errors": {name: {key: metrics.get_label_tp(name, key) for key in TP_METRICS} for name in config.class_names},
        "mean_ap": metrics.mean_ap,
        "mean_errors": metrics.tp_errors,
        "nds": metrics.nd_score,
    }


if __name__ == "__main__":
    text = json.dumps({name: devkit_scores(*case) for name, case in make_cases().items()})
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))
