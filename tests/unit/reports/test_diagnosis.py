"""Sentences about what stands out, each for a run that has just that."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.checkpoint.storage import LocalStorage
from raydet3d.config.differences import Difference
from raydet3d.metrics.analysis import Analysis
from raydet3d.reports.diagnosis import find
from raydet3d.reports.run_files import RunFiles


def run_of(train: dict[str, Any] | None = None, **changes: Any) -> RunFiles:
    scalars = {} if train is None else {"train": {key: np.asarray(value, float) for key, value in train.items()}}
    storage = LocalStorage(Path("nowhere"))
    return RunFiles(location=Path("nowhere"), storage=storage, **{"scalars": scalars, **changes})


def analysis_of(**changes: Any) -> Analysis:
    empty: Analysis = {
        "confusion": {"classes": ["Car", "Cyclist"], "counts": [[40, 0, 5], [0, 30, 5], [3, 2, 0]], "threshold": 0.3},
        "errors": [],
        "scores": [],
        "tolerance": [],
        "sizes": [],
    }
    return {**empty, **changes}  # type: ignore[typeddict-item]


def error(**changes: Any) -> dict[str, Any]:
    sound = {"forward": 0.02, "left": 0.0, "up": 0.01, "spread": 0.1, "size": [1.0, 1.0, 1.0], "yaw": 2.0}
    return {"category": "Car", "matches": 40, "own": 40, **sound, **changes}


def test_a_sound_run_has_no_findings() -> None:
    steps = np.arange(1, 101)
    train = {
        "iter": steps,
        "loss": 3 / steps + 0.1,
        "lr": steps * 0 + 0.01,
        "time": steps * 0 + 1,
        "data_time": steps * 0,
    }
    run = run_of(train, analysis=analysis_of(errors=[error()]))
    assert find(run, {}, []) == ["Nothing stands out."]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (np.linspace(2, 9, 100), "diverged. The learning rate (up to 0.5)"),
        (np.r_[np.linspace(2, 9, 40), np.linspace(9, 1, 60)], "The loss rose from"),
        (np.r_[np.linspace(3, 0.5, 60), np.linspace(0.5, 2, 40)], "rose again"),
        (np.full(100, 2.0), "hardly fallen"),
    ],
)
def test_a_loss_that_does_not_fall_is_named(loss: Any, words: str) -> None:
    found = find(run_of({"iter": np.arange(100), "loss": loss, "lr": np.full(100, 0.5)}), {}, [])
    assert words in found[0]


def test_a_learning_rate_far_from_the_base_configs_is_named() -> None:
    differences = [Difference("optim_wrapper.optimizer.lr", "0.001", "0.1"), Difference("model.x", "1", "2")]
    (found,) = find(run_of(), {"the base config": differences}, [])
    assert "100 times the 0.001 of the base config" in found


def test_exchanged_classes_are_named() -> None:
    counts = [[1, 40, 5], [30, 2, 5], [0, 0, 0]]
    confusion = {"classes": ["Car", "Cyclist"], "counts": counts, "threshold": 0.3}
    found = find(run_of(analysis=analysis_of(confusion=confusion)), {}, [])
    assert "40 of the 41 objects of class Car that have a detection near them are found as Cyclist." in found
    assert any("Classes are exchanged as a whole (Car as Cyclist, Cyclist as Car)" in one for one in found)


SIZES = {"Pedestrian": [0.8, 0.6, 1.73], "Cyclist": [1.76, 0.6, 1.73], "Car": [3.9, 1.6, 1.56]}


def sizes_of(detected: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {"category": name, "objects": 20, "size": size, "detections": 20, "detected": detected[name]}
        for name, size in SIZES.items()
    ]


def test_detections_as_large_as_another_class_are_named() -> None:
    detected = {"Pedestrian": SIZES["Car"], "Cyclist": [1.6, 0.7, 1.7], "Car": SIZES["Pedestrian"]}
    confusion = {"classes": list(SIZES), "counts": [[0] * 4] * 4, "threshold": 0.3}
    (found,) = find(run_of(analysis=analysis_of(confusion=confusion, sizes=sizes_of(detected))), {}, [])
    assert "class Pedestrian measure 3.90 x 1.60 x 1.56 m, as objects of class Car do" in found
    assert "class Car measure 0.80 x 0.60 x 1.73 m, as objects of class Pedestrian do" in found
    assert "class Cyclist measure" not in found


@pytest.mark.parametrize(
    ("head", "is_named"),
    [({"assign_per_class": True}, True), ({"assign_per_class": False}, False), ({}, False)],
)
def test_anchors_in_another_order_than_the_classes_are_named(head: dict[str, Any], is_named: bool) -> None:
    anchors = [SIZES["Car"], SIZES["Cyclist"], SIZES["Pedestrian"]]
    config = {"model": {"pts_bbox_head": {**head, "anchor_generator": {"sizes": anchors}}}}
    confusion = {"classes": list(SIZES), "counts": [[0] * 4] * 4, "threshold": 0.3}
    sizes = [{**one, "detections": 0, "detected": []} for one in sizes_of(SIZES)]
    analysis = analysis_of(confusion=confusion, sizes=sizes)
    (found,) = find(run_of(config=config, analysis=analysis), {}, [])
    words = "class Pedestrian measure 0.80 x 0.60 x 1.73 m, its anchors 3.90 x 1.60 x 1.56 m (those of Car would fit)"
    assert (words in found) == is_named
    assert "class Cyclist measure" not in found


def test_anchors_that_the_detections_fit_are_in_order() -> None:
    config = {"model": {"bbox_head": {"assign_per_class": True, "anchor_generator": {"sizes": [*SIZES.values()]}}}}
    confusion = {"classes": list(SIZES), "counts": [[0] * 4] * 4, "threshold": 0.3}
    turned = dict(zip(SIZES, [SIZES["Cyclist"], SIZES["Car"], SIZES["Pedestrian"]], strict=True))
    sizes = [{**one, "size": turned[one["category"]]} for one in sizes_of(SIZES)]
    (found,) = find(run_of(config=config, analysis=analysis_of(confusion=confusion, sizes=sizes)), {}, [])
    assert "labels are numbered in two ways" in found


@pytest.mark.parametrize("side", [0.0, math.inf, math.nan])
def test_sizes_of_a_model_that_has_diverged_name_nothing(side: float) -> None:
    sizes = sizes_of({name: [side] * 3 for name in SIZES})
    assert find(run_of(analysis=analysis_of(sizes=sizes)), {}, []) == ["Nothing stands out."]


def test_objects_found_under_wrong_names_and_at_wrong_places_are_named() -> None:
    def found(**ap: list[float]) -> list[str]:
        tolerance = [{"category": name.replace("_", " "), "ap": values} for name, values in ap.items()]
        return find(run_of(analysis=analysis_of(tolerance=tolerance)), {}, [])

    good = [60, 70, 75, 80]
    assert found(Car=good, Cyclist=good, any_class=good) == ["Nothing stands out."]
    (names,) = found(Car=[0, 1, 1, 2], Cyclist=[1, 1, 2, 4], any_class=good)
    assert "is 80 whatever class is detected, but 3 on average" in names
    (places,) = found(Car=[0, 5, 60, 80], Cyclist=good, any_class=good)
    assert places.endswith("is Car 80 and 5.")


def test_missed_classes_are_named() -> None:
    confusion = {"classes": ["Car"], "counts": [[1, 40], [0, 0]], "threshold": 0.3}
    (found,) = find(run_of(analysis=analysis_of(confusion=confusion)), {}, [])
    assert "without a detection within 2 m: 40 of 41 Car" in found


def test_shifted_boxes_are_named_with_the_direction() -> None:
    errors = [error(left=-0.6, spread=0.2), error(category="Cyclist", up=0.4, spread=0.1)]
    (found,) = find(run_of(analysis=analysis_of(errors=errors)), {}, [])
    assert "Car 0.60 m right; Cyclist 0.40 m up" in found
    assert "calibration" in found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"yaw": 175.0}, "off by 175 degrees"),
        ({"size": [1.0, 2.0, 1.0]}, "width 2.00"),
        ({"own": 2, "yaw": 99.0, "size": [4.0, 2.0, 1.0]}, "Nothing"),
        ({"own": 0, "yaw": None, "size": []}, "Nothing"),
    ],
)
def test_wrong_headings_and_sizes_are_named(change: dict[str, Any], words: str) -> None:
    found = find(run_of(analysis=analysis_of(errors=[error(**change)])), {}, [])
    assert words in found[0]


def test_waiting_for_data_and_for_a_worker_is_named() -> None:
    train = {"iter": [1, 2], "time": [1, 1], "data_time": [0.5, 0.6]}
    workers = {f"workers/{rank}/busy_percent": np.array([value]) for rank, value in enumerate((20.0, 90.0, 22.0))}
    scalars = {"train": {key: np.asarray(value, float) for key, value in train.items()}, "workers": workers}
    found = find(run_of(scalars=scalars), {}, [])
    assert "waited for data 55 %" in found[0]
    assert "wait for rank 1" in found[1]


def test_restarts_and_bad_steps_are_named() -> None:
    starts = [
        {"iteration": 0, "is_first": True},
        {"iteration": 5, "redone": 2, "why": "a worker process died", "is_first": False},
    ]
    found = find(run_of(starts=starts, bad_steps=[7, 9]), {}, [])
    assert "2 steps were left out" in found[0]
    assert "first at iteration 7" in found[0]
    assert "1 restart (a worker process died); 2 iterations were done twice." in found[1]


def test_a_cause_comes_before_what_follows_from_it() -> None:
    confusion = {"classes": ["Car", "Cyclist"], "counts": [[2, 30, 80], [0, 40, 5], [0, 0, 0]], "threshold": 0.3}
    errors = [error(category=name, forward=0.9, spread=0.1, size=[0.5, 1.0, 1.0]) for name in ("Car", "Cyclist")]
    found = find(run_of(analysis=analysis_of(confusion=confusion, errors=errors)), {}, [])
    assert "Boxes are shifted" in found[0]
    assert sum("found as Cyclist" in text or "without a detection" in text for text in found[1:]) == 2
    assert not any("wrong size" in text for text in found)
