"""Pasting, against a database whose objects and counts are known, and shapely for what may not overlap."""

from __future__ import annotations

import logging
import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet3d.data.transforms.object_sample import DataBaseSampler, ObjectSample, _free
from raydet3d.errors import InputError
from raydet3d.info_file import read_infos
from raydet3d.ops.points import bev_corners, points_in_boxes
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.close import assert_close

CLASSES = ["Pedestrian", "Cyclist", "Car"]
BOX = (4.0, 1.6, 1.5)


def write_database(
    root: Path, counts: dict[str, int], *, packed: bool = True, spread_m: float = 8.0, rows_m: float = 10.0
) -> Path:
    """Objects 0, 1, ... of each class in a row of its own; object i holds 5 + i points of intensity i."""
    (root / "db").mkdir(parents=True)
    rng = np.random.default_rng(1)
    infos: dict[str, list[dict]] = {}
    blob = b""
    for row, (name, count) in enumerate(counts.items()):
        for i in range(count):
            points = np.column_stack(
                [rng.uniform(-0.3, 0.3, (5 + i, 2)), rng.uniform(0.1, 1, 5 + i), np.full(5 + i, i)]
            )
            data = points.astype(np.float32).tobytes()
            path = f"db/{i}_{name}_0.bin"
            (root / path).write_bytes(data)
            entry = {
                "name": name,
                "path": path,
                "image_idx": i,
                "gt_idx": 0,
                "box3d_lidar": np.array([spread_m * i, rows_m * row, -1.7, *BOX, 0.1], np.float32),
                "num_points_in_gt": 5 + i,
                "difficulty": i % 4 - 1,
                "group_id": i,
                "score": 0.0,
            }
            infos.setdefault(name, []).append(entry | ({"offset": len(blob) // 16} if packed else {}))
            blob += data
    if packed:
        (root / "db.bin").write_bytes(blob)
    (root / "dbinfos.pkl").write_bytes(pickle.dumps(infos))
    return root


def make(root: Path, groups: dict[str, int], **changes: object) -> ObjectSample:
    arguments = {
        "data_root": f"{root}/",
        "info_path": f"{root}/dbinfos.pkl",
        "rate": 1.0,
        "prepare": {},
        "classes": CLASSES,
        "sample_groups": groups,
        "points_loader": {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 4, "use_dim": 4},
    }
    plane = changes.pop("use_ground_plane", False)
    return ObjectSample(db_sampler=arguments | changes, use_ground_plane=plane)


def scene(boxes: list | None = None, labels: list | None = None, points: list | None = None) -> dict:
    return {
        "points": np.array(points or [[50, 50, 0, -1]], np.float32),
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.tensor(boxes or []).reshape(-1, 7)),
        "gt_labels_3d": np.array(labels or [], np.int64),
    }


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)


@pytest.mark.parametrize("packed", [True, False])
def test_objects_come_with_their_points_in_place(tmp_path: Path, packed: bool) -> None:
    step = make(write_database(tmp_path, {"Car": 6}, packed=packed), {"Car": 6})
    made = step(scene())
    boxes = made["gt_bboxes_3d"].tensor.numpy()
    assert made["gt_labels_3d"].tolist() == [2] * 6
    assert sorted(boxes[:, 0].tolist()) == [0, 8, 16, 24, 32, 40]
    # Pasted points first, object by object, then the scene's.
    assert made["points"][-1].tolist() == [50, 50, 0, -1]
    numbers = (boxes[:, 0] / 8).astype(int)
    wanted = [number for number in numbers for _ in range(5 + number)]
    assert made["points"][:-1, 3].tolist() == wanted
    inside = points_in_boxes(made["points"], boxes)
    assert inside[:-1].sum(1).tolist() == [1] * len(wanted)
    assert inside.sum(0).tolist() == (5 + numbers).tolist()


def test_packed_and_single_files_give_the_same(tmp_path: Path) -> None:
    made = []
    for packed in (True, False):
        random.seed(4)
        made.append(make(write_database(tmp_path / str(packed), {"Car": 9}, packed=packed), {"Car": 5})(scene()))
    assert_close(made[0]["points"], made[1]["points"])
    assert_close(made[0]["gt_bboxes_3d"].tensor, made[1]["gt_bboxes_3d"].tensor)


def test_points_loader_is_used_for_objects(tmp_path: Path) -> None:
    root = write_database(tmp_path, {"Car": 3})
    three = {"type": "LoadPointsFromFile", "load_dim": 4, "use_dim": [0, 1, 2]}
    made = make(root, {"Car": 3}, points_loader=three)({**scene(), "points": np.full((1, 3), 50, np.float32)})
    assert made["points"].shape == (5 + 6 + 7 + 1, 3)
    squeezed = make(root, {"Car": 3}, points_loader={**three, "use_dim": 4, "norm_intensity": True})(scene())
    assert {round(float(v), 4) for v in squeezed["points"][:-1, 3]} == {0, 0.7616, 0.964}
    with pytest.raises(InputError, match="no argument 'use_dims'; did you mean 'use_dim'"):
        make(root, {"Car": 1}, points_loader={**three, "use_dims": 3})


def test_sampling_does_not_change_the_database(tmp_path: Path) -> None:
    step = make(write_database(tmp_path, {"Car": 6}, packed=False), {"Car": 6})
    first = step(scene())["points"]
    random.seed(0)
    assert_close(step(scene())["points"], first)


def test_as_many_are_drawn_as_are_missing(tmp_path: Path) -> None:
    root = write_database(tmp_path, {"Car": 12, "Pedestrian": 12})
    own = [[-20.0, 0, -1.7, *BOX, 0], [-20.0, 8, -1.7, *BOX, 0], [-20.0, -8, -1.7, 0.8, 0.6, 1.7, 0]]
    made = make(root, {"Car": 5, "Pedestrian": 1})(scene(own, [2, 2, 0]))
    assert Counter(made["gt_labels_3d"].tolist()) == {2: 5, 0: 1}
    assert_close(made["gt_bboxes_3d"].tensor[:3], own, atol=1e-6)
    # Half of the three missing, rounded half to even as numpy does.
    made = make(root, {"Car": 5}, rate=0.5)(scene(own, [2, 2, 0]))
    assert Counter(made["gt_labels_3d"].tolist()) == {2: 4, 0: 1}
    # More than there are: all of them, none twice.
    made = make(root, {"Car": 40})(scene())
    assert len(np.unique(made["gt_bboxes_3d"].tensor[:, 0])) == len(made["gt_labels_3d"]) == 12
    assert len(make(root, {"Car": 1})(scene(own, [2, 2, 0]))["gt_labels_3d"]) == 3


def test_every_object_is_drawn_equally_often(tmp_path: Path) -> None:
    step = make(write_database(tmp_path, {"Car": 10}), {"Car": 3})
    drawn = Counter(round(x / 8) for _ in range(1500) for x in step(scene())["gt_bboxes_3d"].tensor[:, 0].tolist())
    # 450 of each; 5 standard deviations are about 90.
    assert len(drawn) == 10
    assert all(360 < count < 540 for count in drawn.values())


def test_filters_leave_out_levels_and_small_clouds(tmp_path: Path) -> None:
    root = write_database(tmp_path, {"Car": 12})
    filters = {"filter_by_difficulty": [-1], "filter_by_min_points": {"Car": 10}}
    made = make(root, {"Car": 12}, prepare=filters)(scene())
    numbers = sorted(round(x / 8) for x in made["gt_bboxes_3d"].tensor[:, 0].tolist())
    assert numbers == [i for i in range(12) if i % 4 != 0 and 5 + i >= 10]


def test_pasted_objects_do_not_overlap_and_replace_scene_points(tmp_path: Path) -> None:
    from shapely.geometry import Polygon

    root = write_database(tmp_path, {"Car": 30, "Cyclist": 30}, spread_m=2.5, rows_m=1.2)
    own = [[10.0, 0, -1.7, *BOX, 0.5], [10.0, 10, -1.7, *BOX, 1.0]]
    rng = np.random.default_rng(0)
    cloud = np.column_stack([rng.uniform((0, -5, -2), (45, 15, 0), (5000, 3)), np.full(5000, -1)]).tolist()
    step = make(root, {"Car": 15, "Cyclist": 15})
    for seed in range(10):
        random.seed(seed)
        made = step(scene(own, [2, 1], cloud))
        boxes = made["gt_bboxes_3d"].tensor.numpy()
        shapes = [Polygon(c) for c in bev_corners(boxes[:, [0, 1, 3, 4, 6]].astype(float))]
        assert len(boxes) > 6
        assert not any(a.intersection(b).area > 1e-9 for i, a in enumerate(shapes) for b in shapes[:i])
        points = made["points"]
        old = points[points[:, 3] == -1]
        assert not points_in_boxes(old, boxes[2:]).any()
        # Nothing else went: the frame's own objects keep their points.
        before = np.array(cloud, np.float32)
        assert len(old) == (~points_in_boxes(before, boxes[2:]).any(1)).sum()


def test_a_dropped_object_no_longer_blocks_later_ones() -> None:
    def at(*xs: float) -> np.ndarray:
        return bev_corners(np.array([[x, 0.0, 2, 2, 0] for x in xs]).reshape(-1, 5))

    # 0 meets 1 and goes; 1 meets 2 and goes; 2 is free by then.
    assert _free(at(), at(0, 1.5, 3)) == [2]
    # 0 meets what is there; 1 only met 0.
    assert _free(at(-1.5), at(0, 1.5)) == [1]
    assert _free(at(10), at(0, 5, 20)) == [0, 1, 2]


def test_objects_are_placed_on_the_ground_plane(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_database(tmp_path, {"Car": 3})
    # The road at z = 0.1 x - 2: 0.1 x - z - 2 = 0, of unit normal that points up.
    plane = np.array([-0.1, 0, 1, 2.0]) / np.hypot(1, 0.1)
    made = make(root, {"Car": 3}, use_ground_plane=True)({**scene(), "plane": plane})
    boxes = made["gt_bboxes_3d"].tensor.numpy()
    height = boxes[:, :3] @ plane[:3] + plane[3]
    # The original subtracts the distance along the normal from z: second order in the slope.
    assert np.abs(height).max() < 0.02
    assert points_in_boxes(made["points"][:-1], boxes).any(1).all()
    assert not caplog.records
    flat = make(root, {"Car": 3}, use_ground_plane=True)
    with caplog.at_level(logging.WARNING, "raydet3d"):
        flat.warm_up(scene())
        made = [flat(scene()) for _ in range(3)]
    assert [record.message for record in caplog.records if "road planes" in record.message] == [
        "ObjectSample: use_ground_plane=True, but the info file has no road planes (training/planes was absent when it "
        "was prepared); objects keep the height they had"
    ]
    assert_close(made[0]["gt_bboxes_3d"].tensor[:, 2], [-1.7] * 3, atol=1e-6)


def test_a_class_without_objects_warns_and_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_database(tmp_path, {"Car": 3})
    step = make(root, {"Car": 3, "Cyclist": 2}, prepare={"filter_by_min_points": {"Car": 100}})
    with caplog.at_level(logging.WARNING, "raydet3d"):
        assert len(step(scene())["gt_labels_3d"]) == 0
    assert "no Car to paste: none of 3 passes the filters" in caplog.text
    assert "no Cyclist to paste: there is none" in caplog.text


def test_velocities_of_pasted_objects_are_zero(tmp_path: Path) -> None:
    step = make(write_database(tmp_path, {"Car": 2}), {"Car": 2})
    own = torch.tensor([[-30.0, 0, 0, *BOX, 0, 3, 4]])
    made = step({**scene(), "gt_bboxes_3d": LiDARInstance3DBoxes(own, box_dim=9), "gt_labels_3d": np.array([0])})
    assert made["gt_bboxes_3d"].tensor[:, 7:].tolist() == [[3, 4], [0, 0], [0, 0]]


def test_a_database_can_be_pickled(tmp_path: Path) -> None:
    step = make(write_database(tmp_path, {"Car": 4}), {"Car": 4})
    first = step(scene())
    other = pickle.loads(pickle.dumps(step))
    random.seed(0)
    assert_close(other(scene())["points"], first["points"])


def test_the_prepared_database_is_read(tiny: Path) -> None:
    step = make(tiny, {"Car": 4, "Pedestrian": 2}, info_path=f"{tiny}/kitti_dbinfos_train.pkl")
    made = step(scene())
    # The cars of the four frames stand in each other's way; the pedestrians do not.
    assert sorted(made["gt_labels_3d"].tolist()) == [0, 0, 2]
    counts = points_in_boxes(made["points"], made["gt_bboxes_3d"].tensor.numpy()).sum(0).tolist()
    assert counts == [40 if label == 2 else 12 for label in made["gt_labels_3d"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_groups": {"Car": 1, "Tram": 2}}, "sample_groups names 'Tram'"),
        ({"prepare": {"filter_by_size": 1}}, "no filter 'filter_by_size'"),
        ({"info_path": "/no/where.pkl"}, "/no/where.pkl: no such info file"),
        ({"backend_args": {"backend": "petrel"}}, "backend 'petrel' is not known"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    root = write_database(tmp_path, {"Car": 3})
    with pytest.raises(InputError, match=message):
        make(root, {"Car": 1}, **changes)(scene())
    with pytest.raises(InputError, match="sample_2d"):
        ObjectSample({}, sample_2d=True)


@pytest.mark.parametrize("path", ["../secret.bin", "/etc/passwd", "db/../../secret.bin"])
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, path: str) -> None:
    root = write_database(tmp_path / "root", {"Car": 1}, packed=False)
    infos = read_infos(root / "dbinfos.pkl")
    infos["Car"][0]["path"] = path
    (root / "dbinfos.pkl").write_bytes(pickle.dumps(infos))
    with pytest.raises(InputError, match="leads outside"):
        make(root, {"Car": 1})(scene())


def test_objects_and_scene_have_as_many_numbers_a_point(tmp_path: Path) -> None:
    root = write_database(tmp_path, {"Car": 1})
    three = {"type": "LoadPointsFromFile", "load_dim": 4, "use_dim": 3}
    with pytest.raises(InputError, match="points_loader gives 3 numbers a point, the scene has 4"):
        make(root, {"Car": 1}, points_loader=three)(scene())


def test_a_malformed_database_is_named(tmp_path: Path) -> None:
    root = write_database(tmp_path, {"Car": 1})
    infos = read_infos(root / "dbinfos.pkl")
    del infos["Car"][0]["box3d_lidar"]
    (root / "dbinfos.pkl").write_bytes(pickle.dumps(infos))
    with pytest.raises(
        InputError, match=r"dbinfos.pkl: an object of the database is malformed: KeyError\('box3d_lidar'"
    ):
        make(root, {"Car": 1})(scene())
    (root / "dbinfos.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match="is a dict of lists, got list"):
        make(root, {"Car": 1})(scene())


def test_names_of_the_sampler_are_mmdet3ds(tmp_path: Path) -> None:
    root = write_database(tmp_path, {"Car": 2})
    listed = DataBaseSampler(f"{root}/dbinfos.pkl", str(root), 1.0, {}, [{"Car": 1}, {"Car": 2}], classes=["Car"])
    assert listed.groups == [("Car", 1), ("Car", 2)]


def test_objects_of_five_numbers_a_point_keep_time_lag_and_velocity(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "db").mkdir()
    blob, entries = b"", []
    for i in range(3):
        points = np.column_stack([rng.uniform(-0.3, 0.3, (6 + i, 3)), np.full(6 + i, i), np.full(6 + i, 0.05 * i)])
        data = points.astype(np.float32).tobytes()
        (tmp_path / f"db/{i}_car_0.bin").write_bytes(data)
        box = np.array([20.0 * i, 5, -1, 4, 2, 1.5, 0.1, 1.0 + i, -2.0], np.float32)
        entries.append(
            {
                "name": "car",
                "path": f"db/{i}_car_0.bin",
                "box3d_lidar": box,
                "num_points_in_gt": 6 + i,
                "difficulty": 0,
                "offset": len(blob) // 20,
                "channels": 5,
            }
        )
        blob += data
    (tmp_path / "db.bin").write_bytes(blob)
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps({"car": entries}))
    loader = {"type": "LoadPointsFromFile", "load_dim": 5, "use_dim": [0, 1, 2, 3, 4]}
    common = {"rate": 1.0, "prepare": {}, "sample_groups": {"car": 3}, "points_loader": loader}
    sampler = {"info_path": str(tmp_path / "infos.pkl"), "data_root": str(tmp_path), **common}

    def paste(**changes: object) -> dict:
        random.seed(1)
        boxes = LiDARInstance3DBoxes(np.zeros((0, 9)), box_dim=9)
        data = {"points": np.zeros((0, 5), np.float32), "gt_bboxes_3d": boxes, "gt_labels_3d": np.zeros(0, np.int64)}
        return ObjectSample({**sampler, **changes}).transform(data)

    made = paste()
    rows = made["gt_bboxes_3d"].tensor.numpy()
    assert rows.shape == (3, 9)
    for row in rows:
        i = round(row[0] / 20)
        assert_close(row, entries[i]["box3d_lidar"], atol=1e-6)
        own = made["points"][np.abs(made["points"][:, 0] - row[0]) < 5]
        assert_close(own[:, 3:], np.repeat([[i, 0.05 * i]], 6 + i, axis=0), atol=1e-6)
    (tmp_path / "db.bin").unlink()
    assert_close(paste()["points"], made["points"], atol=0)
    assert paste(bbox_code_size=7)["gt_bboxes_3d"].tensor[:, 7:].abs().max() == 0


@pytest.mark.parametrize("packed", [True, False])
def test_cached_database_pastes_the_same(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_database(tmp_path, {"Car": 9, "Pedestrian": 4}, packed=packed)
    groups = {"Car": 5, "Pedestrian": 3}
    filters = {"prepare": {"filter_by_difficulty": [-1], "filter_by_min_points": {"Car": 7}}}
    plain = make(root, groups, **filters)
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    make(root, groups, **filters).warm_up()
    cached = make(root, groups, **filters)
    cached.warm_up()
    assert (root / "dbinfos.pkl.cache").exists()
    if not packed:  # the points are in the cache
        for path in (root / "db").glob("*.bin"):
            path.rename(path.with_suffix(".gone"))
    for step in (cached, pickle.loads(pickle.dumps(cached))):
        random.seed(4)
        made = step(scene())
        for path in (root / "db").glob("*.gone"):
            path.rename(path.with_suffix(".bin"))
        random.seed(4)
        expected = plain(scene())
        assert_close(made["points"], expected["points"])
        assert_close(made["gt_bboxes_3d"].tensor, expected["gt_bboxes_3d"].tensor)
    assert len(pickle.dumps(cached.db_sampler.banks["Car"])) < 1000


def test_files_that_do_not_fit_their_entries_stay_single(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    root = write_database(tmp_path, {"Car": 3}, packed=False)
    (root / "db/1_Car_0.bin").write_bytes(np.full((9, 4), 0.5, np.float32).tobytes())
    made = make(root, {"Car": 3})(scene())
    assert len(made["points"]) == 5 + 9 + 7 + 1
    (root / "db/1_Car_0.bin").unlink()
    with pytest.raises(InputError, match=r"1_Car_0\.bin"):
        make(root, {"Car": 3})(scene())
