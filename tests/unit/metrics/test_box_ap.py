"""AP of LiDAR boxes of any classes: equal to KITTI's and nuScenes' where those apply; ranges, points, names, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raydet3d.metrics import Box3DAPMetric, CenterDistanceAPMetric, kitti_ap, nuscenes_ap
from raydet3d.ops.points import limit_period
from raydet3d.registry import METRICS
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.close import assert_close
from tests.kit.input_errors import message

CLASSES = ("tram", "person")
Sample = dict[str, Any]


def frames(count: int = 12, *, velocity: bool = False, seed: int = 0) -> list[Sample]:
    """Frames with predictions that are near the truth, missing, of another class, or out of nowhere."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        number = int(rng.integers(0, 12))
        truth = rng.uniform((-50, -50, -2, 1, 1, 1, -3), (50, 50, 0, 5, 3, 2, 3), (number, 7))
        labels = rng.integers(0, 2, number)
        found = truth + rng.normal(0, 0.15, truth.shape)
        keep = rng.random(number) < 0.8
        extra = rng.uniform((-50, -50, -2, 1, 1, 1, -3), (50, 50, 0, 5, 3, 2, 3), (int(rng.integers(0, 6)), 7))
        found = np.concatenate([found[keep], extra])
        guess = np.where(
            rng.random(len(found)) < 0.9, np.concatenate([labels[keep], rng.integers(0, 2, len(extra))]), 0
        )
        if velocity:
            truth, found = (np.column_stack([rows, rng.normal(0, 1, (len(rows), 2))]) for rows in (truth, found))
        out.append(sample(truth, labels, found, guess, rng.random(len(found)), rng.integers(0, 20, number)))
    return out


def sample(truth: Any, labels: Any, found: Any, guess: Any, scores: Any, points: Any = None) -> Sample:
    """What the evaluator gives a metric."""
    truth, found = (np.asarray(rows, np.float32) for rows in (truth, found))
    held: Sample = {
        "gt_bboxes_3d": LiDARInstance3DBoxes(
            truth.reshape(len(labels), -1) if len(labels) else np.zeros((0, 7)),
            box_dim=truth.shape[-1] if len(labels) else 7,
        ),
        "gt_labels_3d": np.asarray(labels, np.int64),
    }
    if points is not None:
        held["num_lidar_pts"] = np.asarray(points)
    predictions = {
        "bboxes_3d": LiDARInstance3DBoxes(
            torch.from_numpy(found.reshape(len(guess), -1) if len(guess) else np.zeros((0, 7), np.float32)),
            box_dim=found.shape[-1] if len(guess) else 7,
        ),
        "labels_3d": torch.as_tensor(np.asarray(guess, np.int64)),
        "scores_3d": torch.as_tensor(np.asarray(scores, np.float32)),
    }
    return {"sample_idx": "a/0", "pred_instances_3d": predictions, "eval_ann_info": held}


def score(samples: list[Sample], kind: str = "Box3DAPMetric", **arguments: Any) -> dict[str, float]:
    metric = METRICS.build({"type": kind, **arguments})
    metric.dataset_meta = {"classes": CLASSES}
    names = metric.names()
    metric.process(None, samples)
    found: dict[str, float] = metric.evaluate(len(samples))
    assert list(found) == names
    return {key.partition("/")[2]: value for key, value in found.items()}


def rows_of(one: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
    return one["eval_ann_info"]["gt_bboxes_3d"].numpy(), one["pred_instances_3d"]["bboxes_3d"].numpy()


def test_overlap_ap_equals_kittis() -> None:
    """With image boxes so tall that no object is ignored, KITTI's evaluation gives the same numbers."""
    samples = frames(40)
    truth, found = [], []
    for one in samples:
        predictions = one["pred_instances_3d"]
        for rows, labels, scores, out in (
            (rows_of(one)[0], one["eval_ann_info"]["gt_labels_3d"], None, truth),
            (rows_of(one)[1], predictions["labels_3d"].numpy(), predictions["scores_3d"].numpy(), found),
        ):
            annotation = {
                "name": np.array(CLASSES)[labels],
                **{key: np.zeros(len(rows)) for key in ("truncated", "occluded", "alpha")},
                "bbox": np.tile([0.0, 0.0, 100.0, 100.0], (len(rows), 1)),
                "dimensions": rows[:, [3, 5, 4]],
                "location": np.stack([-rows[:, 1], -rows[:, 2], rows[:, 0]], 1),
                "rotation_y": limit_period(-rows[:, 6].astype(float) - np.pi / 2),
            }
            out.append(annotation if scores is None else {**annotation, "score": scores.astype(float)})
    report = kitti_ap.evaluate(truth, found, CLASSES, kinds=("bev", "3d"))
    ours = score(samples, min_points=0, iou_thresholds=[0.5, 0.25])
    for name in CLASSES:
        for kind, title in (("3d", "3D"), ("bev", "BEV")):
            for rule, least in (("strict", "0.5"), ("loose", "0.25")):
                wanted = report.scores[name, kind, rule, "hard"]
                assert_close(ours[f"{name}_{title}_AP40_{least}"], wanted.ap40, atol=1e-4)
                assert 0 < wanted.ap40 < 100
    assert_close(
        score(samples, min_points=0, num_recalls=11)["tram_3D_AP11_0.5"],
        report.scores["tram", "3d", "strict", "hard"].ap11,
        atol=1e-4,
    )
    assert_close(ours["mAP_3D"], np.mean([value for key, value in ours.items() if "_3D_AP40" in key]), atol=1e-4)


def test_distance_ap_equals_nuscenes() -> None:
    samples = frames(40, velocity=True)
    names = ("car", "pedestrian")

    def objects(side: int) -> nuscenes_ap.Objects:
        parts = []
        for number, one in enumerate(samples):
            rows = rows_of(one)[side].astype(np.float64)
            held = one["pred_instances_3d"]
            labels = held["labels_3d"].numpy() if side else one["eval_ann_info"]["gt_labels_3d"]
            scores = held["scores_3d"].numpy().astype(np.float64) if side else np.zeros(len(rows))
            number_of = np.array([nuscenes_ap.CLASSES.index(name) for name in names])
            velocity = rows[:, 7:] if rows.shape[1] > 7 else np.zeros((len(rows), 2))
            center = rows[:, :3] + rows[:, 3:6] * [0, 0, 0.5]
            none = np.full(len(rows), nuscenes_ap.NO_ATTRIBUTE)
            parts.append(
                nuscenes_ap.Objects(
                    np.full(len(rows), number),
                    number_of[labels],
                    center,
                    rows[:, [4, 3, 5]],
                    rows[:, 6],
                    velocity,
                    none,
                    scores,
                )
            )
        return nuscenes_ap.Objects.concatenate(parts)

    wanted = nuscenes_ap.evaluate(objects(0), objects(1))
    ours = score(samples, "CenterDistanceAPMetric", min_points=0, with_velocity=True)
    for own, name in zip(CLASSES, names, strict=True):
        for distance in nuscenes_ap.DISTANCES_M:
            assert_close(ours[f"{own}_AP_dist_{distance:g}"], wanted.ap[name][distance], atol=1e-4)
        for key in ("trans_err", "scale_err", "orient_err", "vel_err"):
            assert_close(ours[f"{own}_{key}"], wanted.errors[name][key], atol=1e-4)
    assert_close(ours["mAP"], np.mean([wanted.class_ap[name] for name in names]), atol=1e-4)
    assert 0.2 < ours["mAP"] < 0.9


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        (
            "Box3DAPMetric",
            {"iou_thresholds": 0.3},
            {"3D overlap 0.3": "{}_3D_AP40_0.3", "BEV overlap 0.3": "{}_BEV_AP40_0.3"},
        ),
        ("CenterDistanceAPMetric", {"distances": [1.0, 2.0]}, {"1 m": "{}_AP_dist_1", "2 m": "{}_AP_dist_2"}),
    ],
)
def test_the_curves_of_the_analysis_are_the_metrics(
    kind: str, arguments: dict[str, Any], named: dict[str, str]
) -> None:
    metric = METRICS.build({"type": kind, "ranges": [(0, 30)], **arguments})
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, frames(30))
    scores = {key.rpartition("/")[2]: value for key, value in metric.evaluate(30).items()}
    scale = 100 if kind == "CenterDistanceAPMetric" else 1
    found = {named[curve["level"]].format(curve["category"]): curve["ap"] for curve in metric.analysis["curves"]}
    assert found == {key: pytest.approx(scale * scores[key], abs=0.01) for key in found}
    assert len(found) == 4
    between = np.array(metric.analysis["confusion"]["counts"])[:2, :2]
    assert np.trace(between) > 0.5 * between.sum() > 0


def car(x: float, y: float = 0.0) -> list[float]:
    return [x, y, -1.0, 4.0, 2.0, 1.5, 0.1]


def crowd(count: int, x: float) -> list[list[float]]:
    return [car(x, 5.0 * i - 2.5 * count) for i in range(count)]


def test_ranges_points_and_classes_decide_what_counts() -> None:
    near, far = crowd(6, 5.0), crowd(6, 80.0)
    rows = [*near, *far]
    # All near ones are found; of the far ones none, but there are predictions at other far places.
    one = sample(rows, [0] * 12, [*near, *crowd(6, 95.0)], [0] * 12, [0.9] * 6 + [0.95] * 6, [50] * 6 + [0] * 6)
    samples = [one] * 8  # 48 objects in each ring: enough for 41 thresholds
    full = score(samples, min_points=0, ranges=[(0, 40), (40, 200)])
    assert full["tram_3D_AP40_0.5_0-40m"] == 100
    assert full["tram_3D_AP40_0.5_40-200m"] == 0
    assert 0 < full["tram_3D_AP40_0.5"] < 60
    # Objects without points are not missed, but wrong predictions stay wrong; beyond a class's range they do not count.
    assert full["tram_3D_AP40_0.5"] < score(samples)["tram_3D_AP40_0.5"] < 100
    assert score(samples, class_range={"tram": 40})["tram_3D_AP40_0.5"] == 100
    assert score(samples, point_cloud_range=[-50, -50, -5, 50, 50, 5])["tram_3D_AP40_0.5"] == 100
    distance = score(samples, "CenterDistanceAPMetric", class_range=40, distances=[1.0])
    assert_close(distance["tram_AP_dist_1"], 1.0)
    # A class without objects has 0 and does not lower the mean.
    assert distance["person_AP"] == 0
    assert_close(distance["mAP"], 1.0)
    assert set(score(samples, classes=["tram"])) == {"tram_3D_AP40_0.5", "tram_BEV_AP40_0.5", "mAP_3D", "mAP_BEV"}


def test_thresholds_by_class() -> None:
    found = score(frames(), iou_thresholds={"tram": [0.7, 0.5], "person": 0.3}, kinds=["3d"])
    assert list(found) == ["tram_3D_AP40_0.7", "tram_3D_AP40_0.5", "person_3D_AP40_0.3", "mAP_3D"]


def test_frames_without_objects_or_predictions() -> None:
    nothing = sample(np.zeros((0, 7)), [], np.zeros((0, 7)), [], [])
    for kind in ("Box3DAPMetric", "CenterDistanceAPMetric"):
        assert set(score([nothing], kind).values()) <= {0.0, 1.0}  # errors are 1 where nothing is found
        assert np.isfinite(list(score([nothing, *frames(4)], kind).values())).all()


def test_predictions_that_are_not_finite_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    bad = car(3.0)
    bad[0] = float("nan")
    with caplog.at_level("WARNING"):
        found = score([sample([car(5.0)], [0], [car(5.0), bad], [0, 0], [0.5, 0.9])], "CenterDistanceAPMetric")
    assert found["tram_AP"] == 1.0
    assert "1 boxes" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"classes": ["trams"]}, "did you mean 'tram'"),
        ({"iou_thresholds": {"Tram": 0.5}}, "'Tram'"),
        ({"iou_thresholds": 1.5}, "between 0 and 1"),
        ({"ranges": [(30, 10)]}, "[30, 10]"),
        ({"kinds": ["2d"]}, "2d"),
        ({"class_range": {"bus": 3}}, "'bus'"),
        ({"point_cloud_range": [0, 1]}, "6 numbers"),
        ({"num_recalls": 12}, "11 or 40"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], named: str) -> None:
    assert named in message(lambda: score(frames(1), **arguments))


def test_wrong_samples() -> None:
    one = frames(1)[0]
    del one["eval_ann_info"]
    assert "test_mode" in message(lambda: score([one]))
    other = sample([car(1.0)], [7], [car(1.0)], [0], [0.5])
    assert "7" in message(lambda: score([other]))


def test_the_metrics_are_registered() -> None:
    assert METRICS.get("Box3DAPMetric") is Box3DAPMetric
    assert METRICS.get("CenterDistanceAPMetric") is CenterDistanceAPMetric
