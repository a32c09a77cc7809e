"""nuScenes' metrics: cases worked out by hand, filters, the metric's life in a run."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.files import write_pickle
from raydet3d.info_file import info_format
from raydet3d.metrics import NuScenesMetric
from raydet3d.metrics.nuscenes_ap import CLASSES, ERRORS, Objects, evaluate
from raydet3d.metrics.nuscenes_boxes import in_racks, true_objects
from raydet3d.ops.rigid_transforms import invert, multiply, quaternion_to_matrix
from raydet3d.registry import METRICS
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.close import assert_close
from tests.kit.tiny_nuscenes import LIDAR, VERSION, ego_pose, write_nuscenes

CAR = CLASSES.index("car")


def objects(centers: Any, **changes: Any) -> Objects:
    """Cars of one frame, 2 x 4 x 1.5 m, that head along x and stand."""
    center = np.array([[*xy, 0.0] for xy in centers], dtype=np.float64).reshape(-1, 3)
    count = len(center)
    made = Objects(
        frame=np.zeros(count, np.int64),
        label=np.full(count, CAR),
        center=center,
        size=np.tile([2.0, 4.0, 1.5], (count, 1)),
        yaw=np.zeros(count),
        velocity=np.zeros((count, 2)),
        attribute=np.zeros(count, np.int64),
        score=np.linspace(0.9, 0.5, count) if count else np.zeros(0),
    )
    return replace(made, **{key: np.asarray(value) for key, value in changes.items()})


def test_one_of_two_objects_found_gives_half_the_recall() -> None:
    scores = evaluate(objects([(0, 0), (10, 0)]), objects([(0, 0)]))
    # Precision 1 up to recall 0.5: 40 of the 90 points above recall 0.1 are left.
    assert_close(scores.ap["car"][2.0], 40 / 90, atol=1e-12)
    assert_close(scores.errors["car"]["trans_err"], 0.0, atol=0)
    # After a false positive the precision grows with the recall, from 0 to 1/2: 0.01, 0.02, ... above 0.1.
    late = evaluate(objects([(0, 0), (10, 0)]), objects([(30, 0), (0, 0)]))
    assert_close(late.ap["car"][2.0], sum(range(1, 41)) / 100 / 0.9 / 90, atol=1e-12)
    after = evaluate(objects([(0, 0), (10, 0)]), objects([(0, 0), (30, 0)]))
    assert after.ap["car"][2.0] <= scores.ap["car"][2.0]


def test_a_prediction_counts_only_below_the_matching_distance() -> None:
    scores = evaluate(objects([(0, 0)]), objects([(1.0, 0)]))
    assert {distance: round(ap, 6) for distance, ap in scores.ap["car"].items()} == {0.5: 0, 1.0: 0, 2.0: 1, 4.0: 1}
    assert_close(scores.errors["car"]["trans_err"], 1.0, atol=1e-12)


def test_the_nearest_free_object_is_taken() -> None:
    # The best prediction takes the object at 1; the second, nearest to that one too, gets the one at 0.
    scores = evaluate(objects([(0, 0), (1, 0)]), objects([(0.9, 0), (0.8, 0)]))
    assert_close(scores.ap["car"][1.0], 1.0, atol=1e-12)
    # Up to recall 0.5 the error is 0.1, from there it falls to the mean of 0.1 and 0.8 along the confidence.
    assert 0.1 < scores.errors["car"]["trans_err"] < 0.45
    assert evaluate(objects([(0, 0), (1, 0)]), objects([(0.9, 0), (0.8, 0)])).ap["car"][0.5] < 0.5


def test_objects_of_other_frames_and_classes_do_not_match() -> None:
    truth = objects([(0, 0)])
    assert evaluate(truth, objects([(0, 0)], frame=[1])).ap["car"][4.0] == 0
    assert evaluate(truth, objects([(0, 0)], label=[CLASSES.index("bus")])).ap["car"][4.0] == 0


def test_of_equal_scores_the_later_prediction_comes_first() -> None:
    truth = objects([(0, 0)])
    right_last = objects([(30, 0), (0, 0)], score=[0.5, 0.5])
    # Precision 1 but for full recall, where the false positive after it halves it.
    assert_close(evaluate(truth, right_last).ap["car"][2.0], (89 + 0.4 / 0.9) / 90, atol=1e-12)
    assert evaluate(truth, right_last.take(np.array([1, 0]))).ap["car"][2.0] < 0.6


@pytest.mark.parametrize(
    ("error", "change", "value"),
    [
        ("scale_err", {"size": [[2.0, 2.0, 1.5]]}, 0.5),
        ("orient_err", {"yaw": [3.0]}, 3.0),
        ("orient_err", {"yaw": [4.0]}, 2 * math.pi - 4),
        ("vel_err", {"velocity": [[3.0, 4.0]]}, 5.0),
        ("attr_err", {"attribute": [3]}, 1.0),
        ("attr_err", {"attribute": [-1]}, 1.0),
    ],
)
def test_errors_of_one_true_positive(error: str, change: dict[str, Any], value: float) -> None:
    scores = evaluate(objects([(0, 0)]), objects([(0, 0)], **change))
    expected = dict.fromkeys(ERRORS, 0.0) | {error: value}
    assert_close([scores.errors["car"][name] for name in ERRORS], [expected[name] for name in ERRORS], atol=1e-12)
    # The other eight classes that define it count 1.
    mean = np.nanmean([found[error] for found in scores.errors.values()])
    assert_close(scores.mean_errors[error], mean, atol=1e-12)


def test_a_barrier_may_be_turned_round_and_a_cone_has_no_heading() -> None:
    barrier, cone = CLASSES.index("barrier"), CLASSES.index("traffic_cone")
    found = objects([(0, 0), (10, 0)], label=[barrier, cone], yaw=[math.pi, 1.0])
    scores = evaluate(objects([(0, 0), (10, 0)], label=[barrier, cone]), found)
    assert_close(scores.errors["barrier"]["orient_err"], 0.0, atol=1e-12)
    assert np.isnan([scores.errors["barrier"][key] for key in ("vel_err", "attr_err")]).all()
    assert np.isnan([scores.errors["traffic_cone"][key] for key in ("orient_err", "vel_err", "attr_err")]).all()


def test_unknown_velocities_and_attributes_are_no_errors() -> None:
    truth = objects([(0, 0), (10, 0)], velocity=[[np.nan, np.nan], [1.0, 0]], attribute=[-1, 2])
    found = objects([(0, 0), (10, 0)], attribute=[0, 2])
    scores = evaluate(truth, found)
    assert scores.errors["car"]["attr_err"] == 0
    assert 0 < scores.errors["car"]["vel_err"] <= 1
    nothing = evaluate(objects([(0, 0)], velocity=[[np.nan, np.nan]]), objects([(0, 0)]))
    assert nothing.errors["car"]["vel_err"] == 1


def test_nothing_found_scores_nothing() -> None:
    for truth, found in (
        (objects([(0, 0)]), Objects.empty()),
        (Objects.empty(), objects([(0, 0)])),
        (Objects.empty(), Objects.empty()),
    ):
        scores = evaluate(truth, found)
        assert scores.mean_ap == 0
        assert scores.nds == 0
        assert set(scores.mean_errors.values()) == {1.0}


def test_nds_weighs_map_five_times() -> None:
    every = [(8.0 * i, 0.0) for i in range(10)]
    truth = objects(every, label=np.arange(10))
    scores = evaluate(truth, objects(every, label=np.arange(10), velocity=np.full((10, 2), 0.3)))
    assert_close(scores.mean_ap, 1.0, atol=1e-12)
    assert_close(scores.nds, (5 + 4 + 1 - 0.3 * math.sqrt(2)) / 10, atol=1e-9)


# ------------------------------------------------------------------------------------------ the metric


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, and an info file of the validation scene with what the metric reads."""
    root = write_nuscenes(tmp_path_factory.mktemp("metric") / "nuscenes")
    frames = []
    for number in range(2):
        pose = quaternion_to_matrix(*ego_pose(1, 0.5 * number))
        lidar = {"lidar2ego": quaternion_to_matrix(*LIDAR).tolist()}
        frames.append(
            {"sample_idx": number, "token": f"sample-1-{number}", "ego2global": pose.tolist(), "lidar_points": lidar}
        )
    meta = {"dataset": "nuscenes", "version": VERSION, "info_version": "1.1"}
    write_pickle(root / "infos.pkl", {"metainfo": meta, "data_list": frames})
    return root


# The order of MMDetection3D, which is not that of the rules.
NAMES = list(info_format("nuscenes").categories)


def make(root: Path, **changes: Any) -> NuScenesMetric:
    cfg = {"type": "NuScenesMetric", "data_root": str(root), "ann_file": str(root / "infos.pkl"), "metric": "bbox"}
    metric: NuScenesMetric = METRICS.build({**cfg, **changes})
    metric.dataset_meta = {"classes": NAMES}
    return metric


def perfect(root: Path, *, scored_only: bool = False) -> list[dict[str, Any]]:
    """Ground truth as predictions in the LiDAR's frame."""
    tokens = ["sample-1-0", "sample-1-1"]
    truth = info_format("nuscenes").read_ground_truth(root, VERSION, tokens)
    samples = []
    for number in range(2):
        to_lidar = invert(quaternion_to_matrix(*ego_pose(1, 0.5 * number)) @ quaternion_to_matrix(*LIDAR))
        rows, labels = [], []
        for k in np.flatnonzero((truth["frame"] == number) & (truth["name"] != "bicycle_rack")):
            if scored_only and truth["num_points"][k] == 0:
                continue
            center = to_lidar[:3, :3] @ truth["translation"][k] + to_lidar[:3, 3]
            heading = to_lidar[:3, :3] @ quaternion_to_matrix(truth["rotation"][k].tolist())[:3, 0]
            velocity = to_lidar[:3, :3] @ [*truth["velocity"][k], 0.0]
            width, length, height = truth["size"][k]
            yaw = math.atan2(heading[1], heading[0])
            rows.append([*center[:2], center[2] - height / 2, length, width, height, yaw, *velocity[:2]])
            labels.append(NAMES.index(str(truth["name"][k])))
        boxes = LiDARInstance3DBoxes(torch.tensor(rows), box_dim=9)
        found = {
            "bboxes_3d": boxes,
            "scores_3d": torch.linspace(0.9, 0.5, len(rows)),
            "labels_3d": torch.tensor(labels),
        }
        samples.append({"sample_idx": number, "pred_instances_3d": found})
    return samples


def test_ground_truth_as_predictions_is_perfect(town: Path) -> None:
    metric = make(town)
    metric.process({}, perfect(town))
    scores = metric.evaluate(2)
    prefix = "NuScenes metric/pred_instances_3d_NuScenes"
    # No trailer, construction vehicle or motorcycle is there, and none was predicted; the rest is found.
    present = ["car", "truck", "bus", "pedestrian", "bicycle", "traffic_cone", "barrier"]
    for name in NAMES:
        assert scores[f"{prefix}/{name}_AP_dist_0.5"] == (1.0 if name in present else 0.0)
    for name in present:
        assert scores[f"{prefix}/{name}_trans_err"] < 1e-3
        assert scores[f"{prefix}/{name}_scale_err"] < 1e-3
    assert scores[f"{prefix}/car_vel_err"] < 1e-3
    assert_close(scores[f"{prefix}/mAP"], 0.7, atol=1e-9)
    assert metric.names() is not None
    assert set(metric.names() or ()) == set(scores)
    analysis = metric.analysis
    assert analysis is not None
    assert {curve["ap"] for curve in analysis["curves"]} == {100}
    assert {curve["category"] for curve in analysis["curves"]} == set(present)
    counts = np.array(analysis["confusion"]["counts"])
    assert (counts == np.diag(np.diag(counts))).all()
    for error in analysis["errors"]:
        assert max(abs(error["forward"]), abs(error["left"]), abs(error["up"])) < 2e-3
        assert error["yaw"] < 0.1
        assert error["size"] == [1, 1, 1]
    assert sum(group["objects"] for group in analysis["points"]) == counts.sum()


def test_the_submission_is_in_the_global_frame(town: Path, tmp_path: Path) -> None:
    metric = make(town, format_only=True, jsonfile_prefix=str(tmp_path / "out"))
    metric.process({}, perfect(town))
    entries = list(metric.results)
    assert metric.evaluate(2) == {}
    written = json.loads((tmp_path / "out/pred_instances_3d/results_nusc.json").read_text())
    assert written["meta"] == {"use_camera": False, "use_lidar": True}
    assert list(written["results"]) == ["sample-1-0", "sample-1-1"]
    tables = {r["token"]: r for r in json.loads((town / VERSION / "sample_annotation.json").read_text())}
    first, car = written["results"]["sample-1-1"][0], tables["ann-1-1-0"]
    assert_close(first["translation"], car["translation"], atol=1e-3)
    assert_close(first["size"], car["size"], atol=1e-5)
    # One rotation is the other's up to the box's small tilt, which a LiDAR box cannot hold.
    gap = multiply(np.array(first["rotation"]), np.array(car["rotation"]) * [1, -1, -1, -1])
    assert abs(gap[0]) > math.cos(0.01)
    assert (first["detection_name"], first["attribute_name"]) == ("car", "vehicle.moving")
    assert {box["attribute_name"] for box in written["results"]["sample-1-0"]} >= {"", "pedestrian.standing"}
    paths, folder = make(town).format_results(entries, NAMES, str(tmp_path / "again"))
    assert folder is None
    assert Path(paths["pred_instances_3d"]).is_file()


def test_bicycles_in_racks_are_not_scored(town: Path) -> None:
    annotated = info_format("nuscenes").read_ground_truth(town, VERSION, ["sample-1-0", "sample-1-1"])
    truth, racks, has_points = true_objects(annotated)
    assert in_racks(truth, racks).sum() == 2
    assert {CLASSES[label] for label in truth.label[in_racks(truth, racks)]} == {"bicycle"}
    assert has_points.all()  # the bus has radar points


def test_predictions_out_of_range_or_not_finite_or_too_many_are_left_out(
    town: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    samples = perfect(town)
    rows = torch.zeros(700, 9) + torch.tensor([0.0, 0, -1, 4, 2, 1.5, 0, 0, 0])
    rows[:, 0] = torch.linspace(-30, 30, 700)
    rows[0, 0] = 60.0
    rows[1, 3] = float("nan")
    rows[2, 3] = 0.0
    scores = torch.linspace(0.0, 1.0, 700)
    found = {"bboxes_3d": LiDARInstance3DBoxes(rows, box_dim=9), "scores_3d": scores}
    samples[0]["pred_instances_3d"] = {**found, "labels_3d": torch.zeros(700, dtype=torch.long)}
    metric = make(town, jsonfile_prefix=str(tmp_path))
    metric.process({}, samples)
    with caplog.at_level("WARNING", logger="raydet3d"):
        metric.evaluate(2)
    assert "2 predictions" in caplog.text
    assert "1 frames have more than 500" in caplog.text
    written = json.loads((tmp_path / "pred_instances_3d/results_nusc.json").read_text())["results"]["sample-1-0"]
    assert len(written) == 500
    assert min(box["detection_score"] for box in written) > 0.28


def test_boxes_without_velocities_are_taken_to_stand(town: Path, tmp_path: Path) -> None:
    samples = perfect(town)
    for sample in samples:
        boxes = sample["pred_instances_3d"]["bboxes_3d"]
        sample["pred_instances_3d"]["bboxes_3d"] = LiDARInstance3DBoxes(boxes.tensor[:, :7])
    metric = make(town, jsonfile_prefix=str(tmp_path))
    metric.process({}, samples)
    assert metric.evaluate(2)["NuScenes metric/pred_instances_3d_NuScenes/car_vel_err"] > 1
    written = json.loads((tmp_path / "pred_instances_3d/results_nusc.json").read_text())["results"]
    names = {box["attribute_name"] for boxes in written.values() for box in boxes if box["detection_name"] == "bus"}
    assert names == {"vehicle.stopped"}


def test_classes_of_the_data_set_may_be_fewer(town: Path) -> None:
    metric = make(town)
    metric.dataset_meta = {"classes": ["bus", "car"]}
    boxes = LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9)
    empty = {"bboxes_3d": boxes, "scores_3d": torch.zeros(0), "labels_3d": torch.zeros(0, dtype=torch.long)}
    metric.process({}, [{"sample_idx": 0, "pred_instances_3d": empty}])
    scores = metric.evaluate(1)
    assert sum("_AP_dist_" in key for key in scores) == 8


def test_bad_input_is_one_sentence(town: Path, tmp_path: Path) -> None:
    for changes, match in (
        ({"metric": "segm"}, "segm"),
        ({"eval_version": "x"}, "detection_cvpr_2019"),
        ({"format_only": True}, "jsonfile_prefix"),
    ):
        with pytest.raises(InputError, match=match):
            make(town, **changes)
    with pytest.raises(InputError, match="no such info file"):
        NuScenesMetric.check_data({"ann_file": str(tmp_path / "none.pkl")})
    metric = make(town)
    metric.process({}, [{**perfect(town)[0], "sample_idx": 7}])
    with pytest.raises(InputError, match="has no frame 7"):
        metric.evaluate(1)
    metric = make(town)
    metric.dataset_meta = {"classes": ["car"]}
    metric.process({}, perfect(town))
    with pytest.raises(InputError, match="num_classes"):
        metric.evaluate(2)
    metric = make(tmp_path, ann_file=str(town / "infos.pkl"))
    metric.process({}, perfect(town))
    with pytest.raises(InputError, match=r"sample\.json: no such table"):
        metric.evaluate(2)


@pytest.mark.parametrize(
    ("table", "change", "match"),
    [
        ("instance", lambda records: records.pop(), r"instance_token of record .*instance\.json does not have"),
        ("sample", lambda records: records.pop(), r"sample\.json: lacks 1 frames of the info file"),
        ("category", lambda records: records.clear(), "category_token .* tables do not belong together"),
        ("attribute", lambda records: records.clear(), r"attribute\.json does not have"),
        ("sample_annotation", lambda records: records[-1].pop("size"), "has no 'size'"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(
    town: Path, tmp_path: Path, table: str, change: Any, match: str
) -> None:
    root = write_nuscenes(tmp_path / "nuscenes", change=lambda tables: change(tables[table]))
    metric = make(root, ann_file=str(town / "infos.pkl"))
    metric.process({}, perfect(town))
    with pytest.raises(InputError, match=match):
        metric.evaluate(2)


def test_a_table_that_is_no_table_is_refused(town: Path, tmp_path: Path) -> None:
    root = write_nuscenes(tmp_path / "nuscenes")
    metric = make(root, ann_file=str(town / "infos.pkl"))
    for text, match in (("{", "is no JSON table"), ('{"a": 1}', "has no 'token'"), ("3", "list of records")):
        (root / VERSION / "category.json").write_text(text)
        metric.process({}, perfect(town))
        with pytest.raises(InputError, match=match):
            metric.evaluate(2)
        metric.results = []
