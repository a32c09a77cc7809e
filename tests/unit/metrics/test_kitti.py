"""KittiMetric from data samples to named scores, files and sentences, on frames whose answer is known."""

import math
import pickle

import numpy as np
import pytest
import torch

from raydet3d.data.datasets.kitti_io import KITTI_CATEGORIES
from raydet3d.errors import InputError
from raydet3d.metrics import KittiMetric
from raydet3d.registry import METRICS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from tests.kit.shared import KITTI, needs_shared

CLASSES = ("Pedestrian", "Cyclist", "Car")
SIZE = {"Pedestrian": (0.8, 0.6, 1.7), "Cyclist": (1.8, 0.6, 1.7), "Car": (3.9, 1.6, 1.5), "Van": (5.0, 2.0, 2.2)}
CAM2IMG = np.array([[700.0, 0, 600, 45], [0, 700, 180, -0.3], [0, 0, 1, 0.005], [0, 0, 0, 1]])
LIDAR2CAM = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])
WIDTH, HEIGHT = 1242, 375


def project(box):
    """Image box of a LiDAR box, corner by corner, cut to the image."""
    x, y, z, dx, dy, dz, yaw = box
    pixels = []
    for sx in (-0.5, 0.5):
        for sy in (-0.5, 0.5):
            for sz in (0, 1):
                px = x + math.cos(yaw) * sx * dx - math.sin(yaw) * sy * dy
                py = y + math.sin(yaw) * sx * dx + math.cos(yaw) * sy * dy
                u, v, w, _ = CAM2IMG @ LIDAR2CAM @ [px, py, z + sz * dz, 1]
                pixels.append((u / w, v / w))
    (u0, v0), (u1, v1) = np.min(pixels, 0), np.max(pixels, 0)
    return [max(u0, 0), max(v0, 0), min(u1, WIDTH), min(v1, HEIGHT)]


def instance(name, box):
    x, y, z, dx, dy, dz, yaw = box
    camera = [-y, -z - 0.08, x - 0.27, dx, dz, dy, (-yaw - math.pi / 2 + math.pi) % (2 * math.pi) - math.pi]
    label = KITTI_CATEGORIES.index(name) if name != "DontCare" else -1
    alpha = -math.atan2(-y, x) + camera[6]
    return {
        "bbox": project(box), "bbox_label": label, "bbox_3d": camera, "bbox_label_3d": label, "truncated": 0.0,
        "occluded": 0, "alpha": alpha, "difficulty": 0, "num_lidar_pts": 9,
    }  # fmt: skip


def town(num_frames=12, seed=0):
    """Frames of (names, LiDAR boxes), five of each class within 26 m so that image boxes are high; two are empty."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(num_frames):
        names = [] if number in (3, 7) else [name for name in (*CLASSES, "Van") for _ in range(5)]
        boxes = []
        for i, name in enumerate(names):
            x, y = 8.0 + 6 * (i // 5), (i % 5 - 2) * 3.0 * (1 + i // 5) / 4
            boxes.append([x, y, -1.7, *(np.array(SIZE[name]) * rng.uniform(0.9, 1.1, 3)), rng.uniform(-3.1, 3.1)])
        frames.append((names, np.array(boxes).reshape(-1, 7)))
    return frames


def write_infos(path, frames, *, instances=instance, start=100):
    data_list = []
    for number, (names, boxes) in enumerate(frames):
        camera = {"cam2img": CAM2IMG.tolist(), "lidar2cam": LIDAR2CAM.tolist(), "height": HEIGHT, "width": WIDTH}
        info = {"sample_idx": start + number, "images": {"CAM2": camera}}
        if instances is not None:
            info["instances"] = [instances(name, box) for name, box in zip(names, boxes, strict=True)]
        data_list.append(info)
    categories = {name: number for number, name in enumerate(KITTI_CATEGORIES)} | {"DontCare": -1}
    path.write_bytes(pickle.dumps({"metainfo": {"categories": categories}, "data_list": data_list}))
    return path


def sample(number, names, boxes, scores=None):
    """What a detector returns for a frame."""
    rows = [i for i, name in enumerate(names) if name in CLASSES]
    found = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.tensor(boxes[rows], dtype=torch.float32).reshape(-1, 7)),
        scores_3d=torch.linspace(0.9, 0.5, len(rows)) if scores is None else torch.tensor(scores),
        labels_3d=torch.tensor([CLASSES.index(names[i]) for i in rows], dtype=torch.long),
    )
    data_sample = Det3DDataSample(metainfo={"sample_idx": 100 + number}, pred_instances_3d=found)
    return data_sample.to_dict()


def run(metric, samples, *, classes=CLASSES):
    metric.dataset_meta = {"classes": classes}
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def test_ground_truth_as_predictions_scores_100(tmp_path, caplog):
    caplog.set_level("INFO")
    frames = town()
    metric = METRICS.build({"type": "KittiMetric", "ann_file": str(write_infos(tmp_path / "infos.pkl", frames))})
    scores = run(metric, [sample(i, *frame) for i, frame in enumerate(frames)])
    prefix = "Kitti metric/pred_instances_3d/KITTI"
    assert len(scores) == 3 * 3 * 2 * 3 * 2 + 3 * 2 * 3
    for key, value in scores.items():
        assert value == pytest.approx(100, abs=1e-3), key
    assert scores[f"{prefix}/Car_3D_AP40_moderate_strict"] == 100
    assert scores[f"{prefix}/Overall_3D_AP11_moderate"] == 100
    # printed, though not returned: orientation from yaws and places alone agrees with the labels' alpha
    rows = [line.split() for line in caplog.text.splitlines()]
    assert ["AOS", "0.70", *["100.00"] * 6] in rows
    assert ["Car", "objects", "50", "50", "50"] in rows
    assert "12 frames" in caplog.text
    analysis = metric.analysis
    assert analysis is not None
    assert {curve["ap"] for curve in analysis["curves"]} == {100}
    assert np.diag(analysis["confusion"]["counts"]).tolist() == [50, 50, 50, 0]
    assert {group["ap"] for key in ("distance", "points") for group in analysis[key]} == {100}
    assert all(abs(error[key]) < 1e-3 for error in analysis["errors"] for key in ("forward", "left", "up", "yaw"))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_curves_of_the_analysis_are_the_metrics(tmp_path):
    frames = town(40)
    metric = KittiMetric(write_infos(tmp_path / "infos.pkl", frames))
    rng = np.random.default_rng(0)
    samples = []
    for number, (names, boxes) in enumerate(frames):
        noise = rng.normal(0, 0.15, boxes.shape) * [1, 1, 0, 0, 0, 0, 1]
        wrong = [str(rng.choice(CLASSES)) if name in CLASSES and rng.random() < 0.2 else name for name in names]
        scores = rng.random(sum(name in CLASSES for name in wrong)).tolist()
        samples.append(sample(number, wrong, boxes + noise, scores))
    scores = run(metric, samples)
    assert len(metric.analysis["curves"]) == 9
    for curve in metric.analysis["curves"]:
        name = f"{curve['category']}_3D_AP40_{curve['level']}_strict"
        value = scores[f"Kitti metric/pred_instances_3d/KITTI/{name}"]
        assert 0 < value < 100
        assert curve["ap"] == value
        assert 100 * np.mean(curve["precision"]) == pytest.approx(value, abs=0.01)


def test_result_files_equal_the_labels(tmp_path):
    frames = town(4)
    metric = KittiMetric(
        write_infos(tmp_path / "infos.pkl", frames),
        submission_prefix=str(tmp_path / "out"),
        pklfile_prefix=str(tmp_path / "pkl"),
    )
    run(metric, [sample(i, *frame) for i, frame in enumerate(frames)])
    folder = tmp_path / "out" / "pred_instances_3d"
    assert sorted(file.name for file in folder.iterdir()) == [f"{n:06d}.txt" for n in (100, 101, 102, 103)]
    assert (folder / "000103.txt").read_text() == ""
    names, boxes = frames[1]
    lines = [line.split() for line in (folder / "000101.txt").read_text().splitlines()]
    assert len(lines) == 15  # the vans were not predicted
    for line, name, box in zip(lines, names, boxes, strict=False):
        label = instance(name, box)
        x, y, z, length, height, width, ry = label["bbox_3d"]
        assert len(line) == 16
        assert line[:3] == [name, "-1", "-1"]
        expected = [label["alpha"], *label["bbox"], height, width, length, x, y, z, ry]
        assert [float(word) for word in line[3:15]] == pytest.approx(expected, abs=2e-3)
        assert all(len(word.rpartition(".")[2]) == 4 for word in line[3:])
    assert float(lines[0][15]) == pytest.approx(0.9)
    pickled = pickle.loads((tmp_path / "pkl" / "pred_instances_3d.pkl").read_bytes())
    assert [len(frame["name"]) for frame in pickled] == [15, 15, 15, 0]
    assert set(pickled[1]["sample_idx"]) == {101}


def test_format_only_needs_no_labels(tmp_path):
    frames = town(2)
    file = write_infos(tmp_path / "infos.pkl", frames, instances=None)
    metric = KittiMetric(file, format_only=True, submission_prefix=str(tmp_path / "out"))
    assert run(metric, [sample(i, *frame) for i, frame in enumerate(frames)]) == {}
    assert len((tmp_path / "out/pred_instances_3d/000100.txt").read_text().splitlines()) == 15
    with pytest.raises(InputError, match=r"infos.pkl: 2 of 2 frames have no annotations \(first: 100\).*format_only"):
        run(KittiMetric(file), [sample(i, *frame) for i, frame in enumerate(frames)])
    with pytest.raises(InputError, match="submission_prefix"):
        KittiMetric(file, format_only=True)


def test_annotations_may_come_with_the_sample(tmp_path):
    """Then no info file is needed; the frame's number does not matter either."""
    frames = town(6)
    write_infos(tmp_path / "infos.pkl", frames)
    infos = pickle.loads((tmp_path / "infos.pkl").read_bytes())["data_list"]
    samples = [sample(i, *frame) | {"eval_ann_info": infos[i]} for i, frame in enumerate(frames)]
    from_samples = run(KittiMetric(tmp_path / "absent.pkl"), samples)
    from_file = run(KittiMetric(tmp_path / "infos.pkl"), [sample(i, *frame) for i, frame in enumerate(frames)])
    assert from_samples == from_file


def test_empty_predictions_and_empty_ground_truth(tmp_path):
    frames = town(3)
    nothing = ([], np.zeros((0, 7)))
    file = write_infos(tmp_path / "infos.pkl", frames)
    scores = run(KittiMetric(file), [sample(i, *nothing) for i in range(3)])
    assert set(scores.values()) == {0.0}
    empty = write_infos(tmp_path / "empty.pkl", [nothing] * 3)
    assert set(run(KittiMetric(empty), [sample(i, *frame) for i, frame in enumerate(frames)]).values()) == {0.0}
    assert set(run(KittiMetric(empty), [sample(i, *nothing) for i in range(3)]).values()) == {0.0}


def test_predictions_outside_range_or_image_do_not_count(tmp_path):
    """A box counts if its bottom centre lies strictly in the range and its projection touches the image."""
    file = write_infos(tmp_path / "infos.pkl", [(["Car"], np.array([[20, 0, -1.7, 3.9, 1.6, 1.5, 0.0]]))])
    places = {
        (20, 0, -1.7): True,
        (69.9, 0, -1.7): True,
        (70.4, 0, -1.7): False,  # on the border
        (71, 0, -1.7): False,
        (20, 0, -3.1): False,
        (20, 0, 0.1): False,
        (60, 39.9, -1.7): True,
        (80, 45, -1.7): False,
        (10, 15, -1.7): False,  # left of the image
        (10, -15, -1.7): False,
    }
    boxes = np.array([[*place, 3.9, 1.6, 1.5, 0.0] for place in places])
    metric = KittiMetric(file, submission_prefix=str(tmp_path / "out"))
    run(metric, [sample(0, ["Car"] * len(boxes), boxes)])
    lines = (tmp_path / "out/pred_instances_3d/000100.txt").read_text().splitlines()
    expected = [[-y, x - 0.27] for (x, y, _), keep in places.items() if keep]
    assert np.array([line.split()[11:14:2] for line in lines], float) == pytest.approx(np.array(expected), abs=1e-3)


def test_image_detections(tmp_path):
    """2D boxes are scored as such; orientation is unknown then."""
    frames = town()
    samples = []
    for i, (names, boxes) in enumerate(frames):
        rows = [k for k, name in enumerate(names) if name in CLASSES]
        found = {
            "bboxes": torch.tensor([project(boxes[k]) for k in rows]).reshape(-1, 4),
            "scores": torch.rand(len(rows)),
            "labels": torch.tensor([CLASSES.index(names[k]) for k in rows], dtype=torch.long),
        }
        samples.append({"sample_idx": 100 + i, "pred_instances": found})
    metric = KittiMetric(write_infos(tmp_path / "infos.pkl", frames), metric=["img_bbox"], prefix="cam")
    scores = run(metric, samples)
    assert all("_2D_AP" in key for key in scores)
    assert len(scores) == 3 * 2 * 3 * 2 + 2 * 3
    assert scores["cam/pred_instances/KITTI/Car_2D_AP40_easy_strict"] == 100


def test_few_objects_are_reported(tmp_path, caplog):
    frames = town(3)
    run(KittiMetric(write_infos(tmp_path / "i.pkl", frames)), [sample(i, *frame) for i, frame in enumerate(frames)])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("Fewer than 41 valid objects for Pedestrian (easy 15, moderate 15, hard 15), ")
    assert "Car (easy 15" in warnings[0]


@pytest.mark.parametrize(
    ("change", "classes", "words"),
    [
        (lambda i: i.pop("bbox"), CLASSES, "Car: all 15 are ignored (15 with no 2D box)"),
        (
            lambda i: i.update(bbox=[10, 10, 50, 35]),
            CLASSES,
            "Car: all 15 are ignored (15 with a 2D box of at most 25 pixels height)",
        ),
        (lambda i: i.update(occluded=3), CLASSES, "all 15 are ignored (15 with occluded > 2)"),
        (lambda i: i.update(truncated=0.9), CLASSES, "all 15 are ignored (15 with truncated > 0.5)"),
        (
            lambda i: i.update(bbox_label=6),
            CLASSES,
            "Car: no object has this name (there are: tram 60)",
        ),
    ],
)  # fmt: skip
def test_reasons_for_ignored_objects_are_reported(tmp_path, caplog, change, classes, words):
    def changed(name, box):
        out = instance(name, box)
        change(out)
        return out

    frames = town(3)
    file = write_infos(tmp_path / "infos.pkl", frames, instances=changed)
    scores = run(KittiMetric(file), [sample(i, *frame) for i, frame in enumerate(frames)], classes=classes)
    assert set(scores.values()) == {0.0}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("AP is 0 because every ground truth is out of the count: ")
    assert words in warnings[0]


def test_predictions_all_left_out_are_reported(tmp_path, caplog):
    frames = town()
    metric = KittiMetric(write_infos(tmp_path / "infos.pkl", frames), pcd_limit_range=[0, -40, -3, 5, 40, 1])
    run(metric, [sample(i, *frame) for i, frame in enumerate(frames)])
    assert "all 150 predictions are left out: 150 have their bottom centre outside pcd_limit_range" in caplog.text


def test_invalid_arguments_are_refused(tmp_path):
    frames = town(1)
    file = write_infos(tmp_path / "infos.pkl", frames)
    with pytest.raises(InputError, match="metric='map'; it knows 'bbox' and 'img_bbox'"):
        KittiMetric(file, metric="map")
    with pytest.raises(InputError, match="pcd_limit_range needs 6 numbers"):
        KittiMetric(file, pcd_limit_range=[0, 1])
    KittiMetric(file, backend_args={"backend": "disk"})  # as the data sets take it
    with pytest.raises(InputError, match="backend 's3' is not known"):
        KittiMetric(file, backend_args={"backend": "s3"})
    with pytest.raises(InputError, match="has no frame 105"):
        run(KittiMetric(file), [sample(5, *frames[0])])
    with pytest.raises(InputError, match="no camera 'CAM9'; default_cam_key must be one of CAM2"):
        run(KittiMetric(file, default_cam_key="CAM9"), [sample(0, *frames[0])])
    with pytest.raises(InputError, match=r"label is 2, but the data set has 2 classes: Car, Van"):
        run(KittiMetric(file), [sample(0, *frames[0])], classes=("Car", "Van"))
    with pytest.raises(InputError, match="class names"):
        run(KittiMetric(file), [sample(0, *frames[0])], classes=())
    with pytest.raises(InputError, match=r"nowhere.pkl: no such info file"):
        run(KittiMetric(tmp_path / "nowhere.pkl"), [sample(0, *frames[0])])


@needs_shared
def test_result_files_reproduce_real_labels(tmp_path):
    """Label to LiDAR box to result file, on real calibration; with n objects found AP40 is (n - 1) / 40."""
    from raydet3d.data.datasets.kitti_io import camera_to_lidar, read_calib, read_labels

    data_list, samples, labels = [], [], {}
    for frame in ("000000", "000001", "000002", "000008", "000134"):
        calib = read_calib(KITTI / f"training/calib/{frame}.txt")
        label = read_labels(KITTI / f"training/label_2/{frame}.txt")
        camera = {"cam2img": calib.p[2], "lidar2cam": calib.lidar2cam, "height": 375, "width": 1242}
        keep = [i for i, name in enumerate(label.names) if name in CLASSES]
        instances = [
            {
                "bbox": label.bbox[i],
                "bbox_label": KITTI_CATEGORIES.index(name) if name in KITTI_CATEGORIES else -1,
                "bbox_3d": label.boxes[i],
                "truncated": label.truncated[i],
                "occluded": label.occluded[i],
                "alpha": label.alpha[i],
            }
            for i, name in enumerate(label.names)
        ]
        data_list.append({"sample_idx": int(frame), "images": {"CAM2": camera}, "instances": instances})
        boxes = camera_to_lidar(label.boxes[keep], calib.lidar2cam)
        samples.append(sample(int(frame) - 100, [label.names[i] for i in keep], boxes))
        labels[frame] = (label.boxes[keep], label.alpha[keep])
    infos = tmp_path / "infos.pkl"
    infos.write_bytes(pickle.dumps({"data_list": data_list}))
    scores = run(KittiMetric(infos, submission_prefix=str(tmp_path)), samples)
    for frame, (boxes, alpha) in labels.items():
        lines = (tmp_path / f"pred_instances_3d/{frame}.txt").read_text().splitlines()
        read = np.array([line.split()[3:15] for line in lines], float)
        assert read[:, [8, 9, 10, 7, 5, 6, 11]] == pytest.approx(boxes, abs=1e-3)
        assert np.cos(read[:, 0]) == pytest.approx(np.cos(alpha), abs=0.01)
    for name, num in (("Pedestrian", 8), ("Cyclist", 5), ("Car", 8)):
        key = f"Kitti metric/pred_instances_3d/KITTI/{name}_3D_AP40_hard_strict"
        assert scores[key] == pytest.approx((num - 1) / 40 * 100)
