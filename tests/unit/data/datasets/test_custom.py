"""Own recordings: other axes, units and names are converted, bad files are named, `CustomDataset` reads the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.data import CustomDataset
from raydet3d.data.datasets.custom_conventions import Conventions, read_conventions
from raydet3d.data.datasets.custom_layout import CustomLayout, read_cameras, read_objects
from raydet3d.data.prepare import prepare_custom
from raydet3d.errors import InputError
from raydet3d.ops.points import points_in_boxes
from tests.kit.close import assert_close
from tests.kit.input_errors import message
from tests.kit.strange_recorder import CLASSES, CONVENTIONS, FORMATS, town_frame, write_strange_folder
from tests.kit.tiny_kitti import DONT_CARE, calib, label

OURS = {"PKW": "car", "Transporter": "car", "Fußgänger": "pedestrian", "Radfahrer": "cyclist"}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames with two sweeps each, prepared. Not to be written to."""
    root = write_strange_folder(tmp_path_factory.mktemp("data") / "s", sweeps=2, velocities=True, formats=FORMATS)
    prepare_custom(root)
    return root


def load(*, sweeps: int = 0) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "LoadPointsFromFile", "load_dim": 5, "use_dim": 5}]
    if sweeps:
        steps.append({"type": "LoadPointsFromMultiSweeps", "sweeps_num": sweeps, "use_dim": 5, "test_mode": True})
    return steps


def test_other_axes_units_and_names_give_the_towns_own_frames(stranger: Path) -> None:
    dataset = CustomDataset("custom_infos_train.pkl", str(stranger), pipeline=load(), with_velocity=True)
    assert len(dataset) == 4
    assert dataset.metainfo["classes"] == tuple(CLASSES)
    assert dataset.metainfo["palette"] == ([0, 0, 230], [220, 20, 60], [255, 127, 80])
    assert dataset.metainfo["sizes"]["car"] == [4.0, 1.7, 1.6]
    for number in range(4):
        points, things = town_frame(number)
        sample = dataset[number]
        assert sample["sample_idx"] == f"drive0/{number:04d}"
        assert_close(sample["points"][:, :4], points, atol=1e-4)
        things = [thing for thing in things if thing.label != "Truck"]
        boxes = sample["ann_info"]["gt_bboxes_3d"].numpy()
        wanted = np.array([[*thing.center, *thing.size, thing.yaw] for thing in things])
        assert_close(boxes[:, :6], wanted[:, :6], atol=1e-4)
        assert_close(np.cos(boxes[:, 6] - wanted[:, 6]), np.ones(len(things)), atol=1e-6)
        assert_close(boxes[:, 7:], 2 * np.stack([np.cos(wanted[:, 6]), np.sin(wanted[:, 6])], 1), atol=1e-4)
        names = {"Car": "car", "Van": "car", "Pedestrian": "pedestrian", "Cyclist": "cyclist"}
        labels = [CLASSES.index(names[str(thing.label)]) for thing in things]
        assert sample["ann_info"]["gt_labels_3d"].tolist() == labels
        inside = points_in_boxes(points[:, :3].astype(float), wanted).sum(0)
        assert np.abs(sample["ann_info"]["num_lidar_pts"] - inside).max() <= 2


def test_sweeps_are_moved_into_the_frame(stranger: Path) -> None:
    dataset = CustomDataset("custom_infos_val.pkl", str(stranger), pipeline=load(sweeps=2), test_mode=True)
    sample = dataset[1]
    points, _ = town_frame(5)
    clouds = sample["points"].reshape(3, len(points), 5)
    # The town's sweeps are the frame seen from elsewhere.
    for cloud, lag in zip(clouds, (0.0, 0.1, 0.2), strict=True):
        assert_close(cloud[:, :3], points[:, :3], atol=1e-3)
        assert_close(cloud[:, 4], np.full(len(points), lag), atol=1e-6)


def test_classes_are_chosen_and_ordered_by_the_config(stranger: Path) -> None:
    dataset = CustomDataset(
        "custom_infos_train.pkl", str(stranger), metainfo={"classes": ["cyclist", "car"]}, pipeline=load()
    )
    assert dataset.metainfo["palette"] == ([255, 127, 80], [0, 0, 230])
    assert set(dataset.get_data_info(0)["ann_info"]["gt_labels_3d"]) == {0, 1}
    assert "did you mean 'car'" in message(
        lambda: CustomDataset("custom_infos_train.pkl", str(stranger), metainfo={"classes": ["cars"]})
    )
    own = CustomDataset(
        "custom_infos_train.pkl", str(stranger), metainfo={"classes": ["car"], "palette": [[1, 2, 3]]}, min_points=200
    )
    assert own.metainfo["palette"] == ([1, 2, 3],)
    assert all((own.get_data_info(i)["ann_info"]["num_lidar_pts"] >= 200).all() for i in range(4))


def test_a_pipeline_that_reads_other_columns_is_refused(stranger: Path) -> None:
    steps = [{"type": "LoadPointsFromFile", "load_dim": 4, "use_dim": 4}]
    sentence = message(lambda: CustomDataset("custom_infos_train.pkl", str(stranger), pipeline=steps))
    assert "load_dim=4" in sentence
    assert "x, y, z, intensity, time" in sentence


@pytest.mark.parametrize(
    ("axes", "zero", "direction", "heading"),
    [
        (("forward", "left", "up"), None, "counterclockwise", 0.3),
        (("right", "forward", "up"), None, "counterclockwise", 0.3 - np.pi / 2),
        (("forward", "right", "up"), None, "clockwise", -0.3),
        (("right", "down", "forward"), "right", "clockwise", -0.3 - np.pi / 2),
        (("backward", "right", "up"), "left", "counterclockwise", 0.3 + np.pi / 2),
    ],
)
def test_yaw_of_other_axes(axes: Any, zero: Any, direction: Any, heading: float) -> None:
    from raydet3d.data.datasets.custom_conventions import Yaw

    own = Conventions(axes=axes, yaw=Yaw(zero, direction))
    box = own.convert_boxes(np.array([[1.0, 2.0, 3.0, 4.0, 2.0, 1.0, 0.3]]), "bottom")[0]
    assert_close(np.cos(box[6] - heading), 1.0, atol=1e-12)
    assert_close(own.convert_points(np.array([[1.0, 2.0, 3.0]]))[0], box[:3])
    assert_close(np.linalg.norm(box[:3]), np.sqrt(14))
    # A motion in the recorder's frame is the same motion in ours.
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pose[:3, 3] = [5, 6, 7]
    point = np.array([1.0, 2.0, 3.0])
    moved = own.convert_points((pose[:3, :3] @ point + pose[:3, 3])[None])[0]
    ours = own.convert_pose(pose)
    assert_close(ours[:3, :3] @ own.convert_points(point[None])[0] + ours[:3, 3], moved)


def test_label_formats_agree(tmp_path: Path) -> None:
    kitti, lines, objects = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.json"
    kitti.write_text("\n".join([label("Car", 10, -3, yaw=0.3), DONT_CARE]) + "\n")
    lines.write_text("10 -3 -1.7 4.0 1.6 1.5 0.3 Car\n")
    # The list alone, with a byte order mark.
    one = {"class": "Car", "center": [10, -3, -0.95], "size": [4, 1.6, 1.5], "yaw": 0.3, "difficulty": 2, "id": 5}
    objects.write_text(json.dumps([one]), encoding="utf-8-sig")
    (tmp_path / "calib.txt").write_text(calib())
    own = Conventions()
    assert "calib" in message(lambda: read_objects(kitti, own))
    for path in (kitti, lines, objects):
        found = read_objects(path, own, tmp_path / "calib.txt")
        assert found.names == ("Car",)
        assert_close(found.boxes, [[10, -3, -1.7, 4.0, 1.6, 1.5, 0.3]], atol=1e-4)
        assert np.isnan(found.velocities).all()
    assert found.difficulty.tolist() == [2]
    # KITTI's lines with a LiDAR whose axes are others: the calibration is of that LiDAR.
    turned = Conventions(axes=("right", "forward", "up"))
    rotation = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0]])
    text = calib().splitlines()
    text[5] = "Tr_velo_to_cam: " + " ".join(map(str, rotation.ravel()))
    (tmp_path / "calib.txt").write_text("\n".join(text))
    found = read_objects(kitti, turned, tmp_path / "calib.txt")
    assert_close(found.boxes, [[10, -3, -1.7, 4.0, 1.6, 1.5, 0.3]], atol=1e-4)


def test_cameras_of_other_axes_and_units(tmp_path: Path) -> None:
    own = Conventions(
        axes=("right", "forward", "up"), units=read_conventions_of(tmp_path, {"units": {"length": "cm"}}).units
    )
    path = tmp_path / "calib.json"
    # The camera looks forward, 50 cm above the LiDAR.
    matrix = [[1, 0, 0, 0], [0, 0, -1, 50], [0, 1, 0, 0], [0, 0, 0, 1]]
    path.write_text(json.dumps({"front": {"cam2img": [[700, 0, 600], [0, 700, 180], [0, 0, 1]], "lidar2cam": matrix}}))
    camera = read_cameras(path, own)["front"]
    point = np.array([20.0, -2.0, 0.5, 1.0])
    assert_close(camera.lidar2cam @ point, [2, 0, 20, 1])
    u, v, depth = (camera.cam2img @ camera.lidar2cam @ point)[:3]
    assert_close([u / depth, v / depth], [670, 180])
    path.write_text('{"front": {"cam2img": [[1]]}}')
    assert "lidar2cam" in message(lambda: read_cameras(path, own))


def read_conventions_of(folder: Path, content: Any) -> Conventions:
    (folder / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_conventions(folder)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "no JSON"),
        ({"axis": ["right", "forward", "up"]}, "did you mean 'axes'"),
        ({"axes": ["right", "left", "up"]}, "axes must be three directions"),
        ({"units": {"length": "inch"}}, "units.length"),
        ({"yaw": {"direction": "cw"}}, "yaw.direction"),
        ({"yaw": "clockwise"}, "yaw must be a dict"),
        ({"size": ["length", "length", "height"]}, "size"),
        ({"axes": ["up", "left", "forward"]}, "yaw.zero"),
        ({"features": ["intensity"]}, "features"),
        ({"classes": {"car": {"colour": [0, 0, 0]}}}, "did you mean 'color'"),
        ({"classes": {"car": {"labels": ["a"]}, "bus": {"labels": ["a"]}}}, "'a'"),
        ({"classes": ["car"], "ignore": ["car"]}, "car"),
        ({"lidar2ego": [[1, 0], [0, 1]]}, "lidar2ego"),
    ],
)
def test_a_wrong_dataset_file_is_named(tmp_path: Path, content: Any, named: str) -> None:
    sentence = message(lambda: read_conventions_of(tmp_path, content))
    assert sentence.startswith(f"{tmp_path / 'dataset.json'}: ")
    assert named in sentence


def change_label(**values: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "labels/drive0/0001.json"
        content = json.loads(path.read_text())
        content["objects"][1].update(values)
        path.write_text(json.dumps(content))

    return change


def append(file: str, line: str) -> Callable[[Path], None]:
    return lambda root: (root / file).open("a").write(line + "\n") and None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_label(**{"class": "Radfahre"}), ("0001.json object 1", "did you mean 'Radfahrer'")),
        (change_label(size=[0, 160, 150]), ("0001.json object 1", "1.6, 0, 1.5 m", "above 0")),
        (change_label(center=[float("nan"), 0, 0]), ("0001.json object 1", "finite")),
        (change_label(center=[1, 2]), ("0001.json object 1", "3 numbers")),
        (change_label(velocity="fast"), ("0001.json object 1", "malformed")),
        (append("splits/val.txt", "drive0/0009"), ("val.txt line 2", "'drive0/0009'")),
        (append("frames.jsonl", '{"name": "drive0/0000", "pose": [[1]]}'), ("frames.jsonl line 1", "pose")),
        (append("frames.jsonl", '{"name": "drive7/0000"}'), ("frames.jsonl line 1", "'drive7/0000'")),
        (lambda root: (root / "labels/drive0/0000.json").unlink(), ("train.txt line 1", "labels")),
        (lambda root: (root / "labels/drive0/0000.json").write_text('{"boxes": []}'), ("0000.json", "objects")),
        (lambda root: (root / "points/drive0/0002.pcd").write_bytes(b"nothing"), ("0002.pcd", "no PCD file")),
        (lambda root: (root / "points/drive0/0002.npy").write_bytes(b""), ("drive0", "0002.npy")),
        (lambda root: (root / "splits/train.txt").unlink() or (root / "splits/val.txt").unlink(), ("splits", "train")),
    ],
)
def test_a_bad_file_is_named_in_one_line(
    tmp_path: Path, change: Callable[[Path], None], named: tuple[str, ...]
) -> None:
    root = write_strange_folder(tmp_path / "s", train=3, val=1)
    change(root)
    sentence = message(lambda: prepare_custom(root))
    assert all(part in sentence for part in named), sentence


def test_columns_that_a_cloud_lacks(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=1, val=1)
    wanted = {**CONVENTIONS, "features": ["x", "y", "z", "intensty"]}
    (root / "dataset.json").write_text(json.dumps(wanted))
    assert "did you mean 'intensity'" in message(lambda: prepare_custom(root))
    (root / "dataset.json").write_text(json.dumps({**wanted, "features": ["x", "y", "z"], "scale": {"z": 2.0}}))
    prepare_custom(root)
    steps = [{"type": "LoadPointsFromFile", "load_dim": 3, "use_dim": 3}]
    dataset = CustomDataset("custom_infos_train.pkl", str(root), pipeline=steps)
    assert_close(dataset[0]["points"], town_frame(0)[0][:, :3] * [1, 1, 2], atol=1e-3)


def test_a_folder_in_our_own_conventions_needs_no_dataset_file_and_no_copies(tmp_path: Path) -> None:
    for number in range(2):
        points, things = town_frame(number)
        cloud, labels = (tmp_path / folder / f"{number:06d}" for folder in ("points", "labels"))
        for path in (cloud, labels):
            path.parent.mkdir(exist_ok=True)
        points.tofile(cloud.with_suffix(".bin"))
        rows = [" ".join(map(str, [*one.center, *one.size, one.yaw, one.label])) for one in things]
        labels.with_suffix(".txt").write_text("\n".join(rows))
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("000000\n000001\n")
    prepare_custom(tmp_path)
    assert not (tmp_path / "points_prepared").exists()
    steps = [{"type": "LoadPointsFromFile", "load_dim": 4, "use_dim": 4}]
    dataset = CustomDataset("custom_infos_train.pkl", str(tmp_path), pipeline=steps)
    assert list(dataset.metainfo["classes"]) == sorted(dataset.metainfo["classes"])
    assert set(dataset.metainfo["classes"]) <= {"Car", "Van", "Truck", "Pedestrian", "Cyclist"}
    assert np.array_equal(dataset[1]["points"], town_frame(1)[0])
    assert CustomLayout(tmp_path).splits == {"train": ["000000", "000001"]}


def test_missing_files_are_refused_before_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prepare custom"):
        CustomDataset.check_data({"data_root": str(tmp_path), "ann_file": "custom_infos_train.pkl"})  # type: ignore[arg-type]
