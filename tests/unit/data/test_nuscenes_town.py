"""The generated town in nuScenes' layout: determinism, tables, clouds against boxes, motion, first use."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.data.datasets.nuscenes_categories import CAMERAS, NUSCENES_CATEGORIES
from raydet3d.data.datasets.nuscenes_tables import Table
from raydet3d.data.synthetic.nuscenes_layout import SCENES, VERSION, write_scene
from raydet3d.data.synthetic.nuscenes_shapes import make_object
from raydet3d.data.synthetic.nuscenes_street import make_street
from raydet3d.data.synthetic.nuscenes_town_dataset import NuScenesTownDataset
from raydet3d.data.synthetic.nuscenes_town_settings import NuScenesTownSettings
from raydet3d.errors import InputError
from raydet3d.info_file import read_infos
from raydet3d.metrics import NuScenesMetric
from raydet3d.ops.points import points_in_boxes
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.close import assert_close

SMALL: dict[str, Any] = {"num_keyframes": 2, "azimuth_step_deg": 2.0, "images": False}
PREFIX = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", "img": ""}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small town, made on first use by its data set."""
    folder = tmp_path_factory.mktemp("town") / "nuscenes"
    assert len(NuScenesTownDataset(str(folder), town=SMALL, data_prefix=PREFIX)) == 8 * 2
    return folder


def test_shapes_lie_inside_of_their_boxes_and_nearly_fill_them() -> None:
    rng = np.random.default_rng(0)
    for name in NUSCENES_CATEGORIES:
        for ridden in (True, False):
            for _ in range(10):
                thing = make_object(name, rng, ridden=ridden)
                corners = np.concatenate([part.corners for part in thing.parts])
                half = np.array(thing.size[:2]) / 2
                assert (np.abs(corners[:, :2]) <= half + 1e-6).all(), name
                assert corners[:, 2].min() >= -1e-9
                assert corners[:, 2].max() <= thing.size[2] + 1e-6
                assert (np.abs(corners[:, :2]).max(0) > 0.75 * half).all(), name
                assert corners[:, 2].max() > 0.9 * thing.size[2], name


def test_nothing_runs_into_the_car_or_into_another_vehicle() -> None:
    for seed in range(3):
        street = make_street(np.random.default_rng(seed), 6.0)
        lanes = [actor for actor in street.actors if actor.speed and abs(actor.d) < 0.6]
        assert {actor.speed for actor in lanes} == {street.ego_speed}
        for time_s in (0.0, 3.0, 6.0):
            ego = street.course.at(street.ego_speed * time_s, 0.0)
            for actor in street.actors:
                thing = actor.at(street.course, time_s)
                gap = np.hypot(thing.center[0] - ego[0], thing.center[1] - ego[1])
                assert gap > min(thing.size[:2]) / 2 + 1.0, (actor.thing.kind, gap)


def test_the_same_seed_gives_the_same_files(root: Path, tmp_path: Path) -> None:
    for channel in ("LIDAR_TOP", *CAMERAS):
        (tmp_path / "samples" / channel).mkdir(parents=True)
    (tmp_path / "sweeps" / "LIDAR_TOP").mkdir(parents=True)
    settings = NuScenesTownSettings.read(SMALL)
    for number in (0, 9):
        scene = write_scene(tmp_path, settings, number)
        whole = Table(root / VERSION, "sample_annotation").records
        assert all(whole[record["token"]] == record for record in scene["sample_annotation"])
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes(), path
    clouds = [path.read_bytes() for path in (root / "samples/LIDAR_TOP").iterdir()]
    assert len(set(clouds)) == len(clouds) == len(SCENES) * 2


def test_tables_are_those_of_a_v1_0_mini(root: Path) -> None:
    tables = {name: Table(root / VERSION, name) for name in ("scene", "sample", "sample_data", "sample_annotation")}
    assert [scene["name"] for scene in tables["scene"]] == list(SCENES)
    stamps = [sample["timestamp"] for sample in tables["sample"]][:2]
    assert np.diff(stamps).tolist() == [500_000]
    channels = Counter(record["filename"].split("/")[1] for record in tables["sample_data"] if record["is_key_frame"])
    assert set(channels.values()) == {20}
    assert len(channels) == 7
    lidar = [record for record in tables["sample_data"] if "LIDAR_TOP" in record["filename"]]
    assert len(lidar) == len(SCENES) * (10 + 1)
    for name in ("instance", "ego_pose", "calibrated_sensor", "sensor", "log", "map", "category", "visibility"):
        assert len(Table(root / VERSION, name))


def test_all_classes_and_attributes_are_in_both_splits(root: Path) -> None:
    for split in ("train", "val"):
        frames = read_infos(root / f"nuscenes_infos_{split}.pkl")["data_list"]
        labels = Counter(one["bbox_label_3d"] for frame in frames for one in frame["instances"])
        assert set(labels) == set(range(10)), split
        attributes = {one["attr_label"] for f in frames for found in f["cam_instances"].values() for one in found}
        assert attributes >= {0, 1, 2, 3, 5, 6, 8}, split
    assert [len(frame.get("lidar_sweeps", ())) for frame in frames[:2]] == [0, 10]


def test_boxes_hold_the_points_that_the_tables_count(root: Path) -> None:
    pipeline = [{"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5}]
    dataset = NuScenesTownDataset(str(root), town=SMALL, data_prefix=PREFIX, pipeline=pipeline)
    stated, counted = [], []
    for index in range(0, len(dataset), 3):
        sample = dataset[index]
        points = sample["points"][:, :3].astype(np.float64)
        boxes = sample["ann_info"]["gt_bboxes_3d"].tensor.numpy()[:, :7].astype(np.float64)
        stated += sample["ann_info"]["num_lidar_pts"].tolist()
        counted += points_in_boxes(points, boxes).sum(0).tolist()
        assert sample["points"][:, 4].min() >= 0
        assert sample["points"][:, 4].max() <= 31
        # All around: each quadrant has points.
        assert len(np.unique(np.sign(points[:, 0]) + 2 * np.sign(points[:, 1]))) >= 4
    assert_close(sum(counted) / sum(stated), 1.0, atol=0.08)
    assert np.corrcoef(stated, counted)[0, 1] > 0.99


def test_sweeps_and_velocities_agree_with_the_motion(root: Path) -> None:
    """Points of all ten sweeps, moved with their box's velocity, lie in the box of the keyframe."""
    pipeline = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
        {"type": "LoadPointsFromMultiSweeps", "sweeps_num": 10, "use_dim": 5, "remove_close": True},
    ]
    dataset = NuScenesTownDataset(str(root), town=SMALL, data_prefix=PREFIX, pipeline=pipeline)
    fast = moved_on = unmoved = together = alone = 0
    for index in (1, 5, 9, 13):
        sample = dataset[index]
        points = sample["points"].astype(np.float64)
        boxes = sample["ann_info"]["gt_bboxes_3d"].tensor.numpy().astype(np.float64)
        many = sample["ann_info"]["num_lidar_pts"] >= 8
        for box in boxes[many]:
            moved = points[:, :3].copy()
            moved[:, :2] += box[7:9] * points[:, 4:5]
            with_motion = points_in_boxes(moved, box[None, :7]).sum()
            without = points_in_boxes(points[:, :3], box[None, :7]).sum()
            key = points_in_boxes(points[points[:, 4] == 0, :3], box[None, :7]).sum()
            if np.hypot(*box[7:9]) > 4:
                fast, moved_on, unmoved = fast + 1, moved_on + with_motion, unmoved + without
            together, alone = together + with_motion, alone + key
    assert fast > 5
    assert moved_on > 1.15 * unmoved
    assert together > 6 * alone  # of 11


def test_ground_truth_as_predictions_is_perfect(root: Path) -> None:
    dataset = NuScenesTownDataset(
        str(root), "nuscenes_infos_val.pkl", town=SMALL, data_prefix=PREFIX, test_mode=True, use_valid_flag=True
    )
    metric = NuScenesMetric(str(root), root / "nuscenes_infos_val.pkl")
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset.get_data_info(index)
        truth = sample["eval_ann_info"]
        boxes: LiDARInstance3DBoxes = truth["gt_bboxes_3d"]
        scores = np.linspace(1, 0.5, len(boxes)) if len(boxes) else np.zeros(0)
        found = {"bboxes_3d": boxes, "scores_3d": scores, "labels_3d": truth["gt_labels_3d"]}
        metric.process({}, [{"sample_idx": sample["sample_idx"], "pred_instances_3d": found}])
    scores_of = metric.evaluate(len(dataset))
    assert_close(scores_of["NuScenes metric/pred_instances_3d_NuScenes/mAP"], 1.0, atol=1e-9)
    assert scores_of["NuScenes metric/pred_instances_3d_NuScenes/NDS"] > 0.97


def test_another_town_in_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed=0, the config asks for seed=1"):
        NuScenesTownDataset(str(root), town={**SMALL, "seed": 1})
    with pytest.raises(InputError, match="num_keyframe"):
        NuScenesTownDataset(str(tmp_path / "none"), town={"num_keyframe": 3})
    NuScenesTownDataset.check_data({"data_root": str(root), "town": SMALL, "ann_file": "nuscenes_infos_val.pkl"})
