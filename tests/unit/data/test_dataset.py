"""KittiDataset and its wrappers: info layouts, labels, refetching, refusals; real frames where they are at hand."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet3d.data import ConcatDataset, KittiDataset, RepeatDataset, SeededDataset, check_dataset
from raydet3d.data.dataset import Det3DDataset, SerializedList
from raydet3d.data.prepare import prepare_kitti
from raydet3d.errors import InputError
from raydet3d.info_file import read_infos
from raydet3d.registry import DATASETS
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.close import assert_close
from tests.kit.shared import KITTI, needs_shared
from tests.kit.tiny_kitti import CLASSES, dataset_cfg, train_pipeline


def build(root: Path, **changes: object) -> KittiDataset:
    cfg = dataset_cfg(root, pipeline=[lambda results: results])
    return DATASETS.build({**cfg, "filter_empty_gt": False, **changes})


def rewrite(root: Path, tmp_path: Path, change) -> Path:
    """A copy of the training infos, changed, beside links to the rest."""
    content = read_infos(root / "kitti_infos_train.pkl")
    content = change(content) or content
    (tmp_path / "kitti_infos_train.pkl").write_bytes(pickle.dumps(content))
    if not (tmp_path / "training").exists():
        (tmp_path / "training").symlink_to(root / "training")
    return tmp_path


def test_first_sample_holds_the_fields_of_its_info(tiny: Path) -> None:
    dataset = build(tiny, data_prefix={"pts": "training/velodyne_reduced", "img": "training/image_2"})
    sample = dataset[1]
    assert len(dataset) == 4
    assert sample["sample_idx"] == 1
    assert sample["lidar_path"] == str(tiny / "training/velodyne_reduced/000001.bin")
    assert sample["img_path"] == str(tiny / "training/image_2/000001.png")
    assert sample["ori_shape"] == (375, 1242)
    assert_close(sample["lidar2img"], sample["cam2img"] @ sample["lidar2cam"], atol=1e-9)
    # 1.7 m below the sensor: 0 x + 0 y + 1 z + 1.7 = 0.
    assert_close(sample["plane"], [0, 0, 1, 1.7], atol=1e-12)
    annotation = sample["ann_info"]
    # The van is none of the classes, DontCare neither.
    assert annotation["gt_labels_3d"].tolist() == [2, 0, 1]
    assert isinstance(annotation["gt_bboxes_3d"], LiDARInstance3DBoxes)
    wanted = [[11, -3, -1.7, 4, 1.6, 1.5, 0.3], [16, 5.2, -1.7, 0.8, 0.6, 1.7, 1.0], [20, 6, -1.7, 1.7, 0.6, 1.7, -2.0]]
    assert_close(annotation["gt_bboxes_3d"].tensor, wanted, atol=1e-4)
    assert annotation["num_lidar_pts"].tolist() == [40, 12, 9]
    assert annotation["difficulty"].tolist() == [0, 0, 0]
    assert annotation["gt_bboxes"].shape == (3, 4)


def test_labels_follow_the_configs_classes(tiny: Path) -> None:
    dataset = build(tiny, metainfo={"classes": ["Van", "Car"]})
    assert dataset.metainfo["classes"] == ("Van", "Car")
    assert dataset[1]["ann_info"]["gt_labels_3d"].tolist() == [1, 0]
    assert dataset[0]["ann_info"]["gt_labels_3d"].tolist() == [1]
    assert build(tiny, metainfo={"CLASSES": ["Van", "Car"]}).metainfo["classes"] == ("Van", "Car")
    assert build(tiny, metainfo=None).metainfo["classes"][:3] == ("Pedestrian", "Cyclist", "Car")
    with pytest.raises(InputError, match="no class 'Pedestrain'; did you mean 'Pedestrian'"):
        build(tiny, metainfo={"classes": ["Pedestrain"]})


def test_nul_characters_in_paths_are_refused(tiny: Path, tmp_path: Path) -> None:
    def spoil(content):
        content["data_list"][1]["lidar_points"]["lidar_path"] = "00\x0001.bin"

    for change in ({"ann_file": "a\0b.pkl"}, {"data_root": "a\0b"}, {"data_prefix": {"pts": "a\0b"}}):
        with pytest.raises(InputError, match="NUL"):
            DATASETS.build({**dataset_cfg(tiny, pipeline=[]), **change})
    with pytest.raises(InputError, match=r"kitti_infos_train\.pkl: .*NUL"):
        build(rewrite(tiny, tmp_path, spoil))
    with pytest.raises(InputError, match="NUL"):
        read_infos("a\0b")


@pytest.mark.parametrize(("place", "value"), [(4, 0.0), (3, -1.0), (5, np.inf), (4, np.nan), (0, np.inf), (6, np.nan)])
def test_boxes_without_a_finite_size_and_place_are_left_out_and_named(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int, value: float
) -> None:
    def flatten(content):
        content["data_list"][1]["instances"][0]["bbox_3d"][place] = value

    with caplog.at_level("WARNING", logger="raydet3d"):
        annotation = build(rewrite(tiny, tmp_path, flatten))[1]["ann_info"]
    assert annotation["gt_labels_3d"].tolist() == [0, 1]
    assert "frame 1 has 1 boxes" in caplog.text


def test_each_access_returns_a_copy(tiny: Path) -> None:
    dataset = build(tiny)
    first = dataset.get_data_info(0)
    first["ann_info"]["gt_bboxes_3d"].tensor.fill_(9)
    first["lidar2cam"][:] = 0
    assert dataset.get_data_info(0)["ann_info"]["gt_bboxes_3d"].tensor[0, 0] == 10
    assert dataset.get_data_info(0)["lidar2cam"].any()


def test_indices_and_iteration(tiny: Path) -> None:
    assert [sample["sample_idx"] for sample in build(tiny, indices=2)] == [0, 1]
    assert [sample["sample_idx"] for sample in build(tiny, indices=-1)] == [3]
    assert [sample["sample_idx"] for sample in build(tiny, indices=[3, 0])] == [3, 0]
    assert build(tiny)[-1]["sample_idx"] == 3
    with pytest.raises(IndexError, match="sample 4 of a data set of 4"):
        build(tiny)[4]


def test_packed_items_cross_processes() -> None:
    packed = pickle.loads(pickle.dumps(SerializedList([{"a": 1}, [2], "three"])))
    assert [packed[i] for i in range(len(packed))] == [{"a": 1}, [2], "three"]
    assert len(SerializedList([])) == 0


def test_camera_boxes_stay_in_their_frame(tiny: Path) -> None:
    boxes = build(tiny, box_type_3d="Camera")[0]["ann_info"]["gt_bboxes_3d"]
    assert_close(boxes.tensor[0], [3, 1.7, 10, 4, 1.5, 1.6, -0.3 - np.pi / 2], atol=1e-4)


# ---------------------------------------------------------------- empty samples


def emptied(content: dict) -> None:
    for frame in content["data_list"][:3]:
        frame["instances"] = []


def test_frames_without_objects_are_replaced_by_the_samples_own_draw(tiny: Path, tmp_path: Path) -> None:
    root = rewrite(tiny, tmp_path, emptied)
    dataset = SeededDataset(build(root, filter_empty_gt=True), seed=0)
    assert [dataset[(0, index)]["sample_idx"] for index in range(4)] == [3, 3, 3, 3]
    many = SeededDataset(
        build(rewrite(tiny, tmp_path, lambda c: c["data_list"][0].update(instances=[])), filter_empty_gt=True), 0
    )
    drawn = [many[(epoch, 0)]["sample_idx"] for epoch in range(40)]
    assert set(drawn) == {1, 2, 3}
    np.random.seed(77)
    assert [many[(epoch, 0)]["sample_idx"] for epoch in range(40)] == drawn


def test_frames_emptied_by_the_pipeline_are_replaced_too(tiny: Path) -> None:
    # In 2 m around x = 13 there is the car of frame 3 alone.
    steps = train_pipeline(tiny)
    near = {"type": "ObjectRangeFilter", "point_cloud_range": [12.5, -4, -3, 14, -2, 1]}
    cfg = dataset_cfg(tiny, pipeline=[*steps[:2], near, steps[-1]])
    assert SeededDataset(DATASETS.build(cfg), 0)[(0, 0)]["data_samples"].sample_idx == 3
    assert len(DATASETS.build({**cfg, "filter_empty_gt": False})[0]["data_samples"].gt_instances_3d.labels_3d) == 0
    nowhere = {**near, "point_cloud_range": [500, 0, 0, 501, 1, 1]}
    nothing = DATASETS.build({**cfg, "pipeline": [*steps[:2], nowhere, steps[-1]], "max_refetch": 5})
    with pytest.raises(InputError, match=r"no training sample with an object in 5 draws .*check metainfo.classes"):
        nothing[0]
    assert DATASETS.build({**cfg, "test_mode": True, "pipeline": steps[:1]})[0]["points"].shape[1] == 4


# ---------------------------------------------------------------- refusals


def test_missing_data_says_how_to_prepare_it(tiny: Path, tmp_path: Path) -> None:
    check_dataset(dataset_cfg(tiny, pipeline=[]))
    cfg = {"type": "RepeatDataset", "times": 2, "dataset": dataset_cfg(tmp_path / "none", pipeline=[])}
    with pytest.raises(InputError, match=r"data_root .*none/' does not exist .*raydet3d.data.prepare kitti .*none"):
        check_dataset(cfg)
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"ann_file .*kitti_infos_train.pkl' does not exist"):
        check_dataset({"type": "ConcatDataset", "datasets": [dataset_cfg(tmp_path / "raw", pipeline=[])]})
    with pytest.raises(InputError, match=r"data_prefix\['pts'\] .*velodyne_x' does not exist"):
        check_dataset({**dataset_cfg(tiny, pipeline=[]), "data_prefix": {"pts": "training/velodyne_x"}})
    with pytest.raises(InputError, match="no such info file"):
        build(tmp_path / "raw")


@pytest.mark.parametrize("path", ["../../label_2/000000.txt", "/etc/passwd"])
def test_paths_of_an_info_file_stay_in_their_folder(tiny: Path, tmp_path: Path, path: str) -> None:
    root = rewrite(tiny, tmp_path, lambda c: c["data_list"][2]["lidar_points"].update(lidar_path=path))
    with pytest.raises(InputError, match="leads outside of"):
        build(root)


def test_an_absolute_path_inside_the_root_is_accepted(tiny: Path, tmp_path: Path) -> None:
    inside = str(tmp_path / "training/velodyne_reduced/000000.bin")
    root = rewrite(tiny, tmp_path, lambda c: c["data_list"][0]["lidar_points"].update(lidar_path=inside))
    assert build(root)[0]["lidar_path"] == inside


def test_an_info_file_that_runs_code_is_refused(tiny: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/boom",)

    root = rewrite(tiny, tmp_path, lambda c: c["data_list"].append(Bomb()))
    with pytest.raises(InputError, match=r"kitti_infos_train.pkl: holds 'posix.system'"):
        build(root)
    assert not (tmp_path / "boom").exists()


def test_a_frame_that_lacks_a_key_is_named(tiny: Path, tmp_path: Path) -> None:
    root = rewrite(tiny, tmp_path, lambda c: c["data_list"][2].pop("lidar_points") and None)
    with pytest.raises(InputError, match="frame 2 of data_list has no key 'lidar_points'"):
        build(root)


def test_arguments_without_an_effect_here_are_accepted(tiny: Path) -> None:
    assert len(build(tiny, filter_cfg=None, show_ins_var=False, serialize_data=True)) == len(build(tiny))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter_cfg": {"min_size": 32}}, "filter_cfg={'min_size': 32}: set filter_empty_gt instead"),
        ({"load_type": "fov_image_based"}, "load_type is 'fov_image_based'"),
        ({"backend_args": {"backend": "petrel"}}, "backend 'petrel' is not known"),
        ({"modality": {"lidar": True}}, "modality has no 'lidar'"),
        ({"piepline": []}, "dataset KittiDataset has no argument 'piepline'; did you mean 'pipeline'"),
        ({"box_type_3d": "Depth"}, "box_type_3d must be LiDAR or Camera"),
    ],
)
def test_bad_arguments_are_refused(tiny: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(tiny, **changes)


# ---------------------------------------------------------------- layouts


def to_v1(content: dict) -> list[dict]:
    """The old layout of the same frames."""
    names = {number: name for name, number in content["metainfo"]["categories"].items()}
    frames = []
    for frame in content["data_list"]:
        boxes = np.array([instance["bbox_3d"] for instance in frame["instances"]])
        images = frame["images"]
        column = {key: np.array([i[key] for i in frame["instances"]]) for key in frame["instances"][0]}
        frames.append(
            {
                "image": {
                    "image_idx": frame["sample_idx"],
                    "image_path": "training/image_2/" + images["CAM2"]["img_path"],
                    "image_shape": np.array([images["CAM2"]["height"], images["CAM2"]["width"]], np.int32),
                },
                "point_cloud": {
                    "num_features": 4,
                    "velodyne_path": "training/velodyne/" + frame["lidar_points"]["lidar_path"],
                },
                "calib": {
                    **{f"P{i}": np.array(images[f"CAM{i}"]["cam2img"]) for i in range(4)},
                    "R0_rect": np.array(images["R0_rect"]),
                    "Tr_velo_to_cam": np.array(frame["lidar_points"]["Tr_velo_to_cam"]),
                    "Tr_imu_to_velo": np.array(frame["lidar_points"]["Tr_imu_to_velo"]),
                },
                "annos": {
                    "name": np.array([names[i["bbox_label"]] for i in frame["instances"]]),
                    "location": boxes[:, :3],
                    "dimensions": boxes[:, 3:6],
                    "rotation_y": boxes[:, 6],
                    "num_points_in_gt": column["num_lidar_pts"],
                    "group_ids": column["group_id"],
                    **{
                        k: column[k] for k in ("bbox", "truncated", "occluded", "alpha", "score", "index", "difficulty")
                    },
                },
                "plane": np.array(frame["plane"]),
            }
        )
    return frames


def test_the_old_layout_gives_the_same_samples(tiny: Path, tmp_path: Path) -> None:
    old, new = build(rewrite(tiny, tmp_path, to_v1)), build(tiny)
    for a, b in zip(old, new, strict=True):
        assert a["sample_idx"] == b["sample_idx"]
        assert Path(a["lidar_path"]).name == Path(b["lidar_path"]).name
        for key in ("lidar2img", "lidar2cam", "plane"):
            assert_close(a[key], b[key], atol=1e-9, name=key)
        assert a["ann_info"].keys() == b["ann_info"].keys()
        for key in a["ann_info"]:
            one, other = a["ann_info"][key], b["ann_info"][key]
            if key == "gt_bboxes_3d":
                one, other = one.tensor, other.tensor
            assert_close(one, other, atol=1e-6, name=key)


def test_the_base_reads_other_data_sets_infos(tmp_path: Path) -> None:
    instance = {"bbox_3d": [1, 2, 3, 4, 5, 6, 0.5], "bbox_label_3d": 1}
    frame = {"sample_idx": "a", "lidar_points": {"lidar_path": "a.bin"}, "instances": [instance]}
    content = {"metainfo": {"categories": {"tree": 0, "bush": 1}}, "data_list": [frame]}
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps(content))
    dataset = Det3DDataset("infos.pkl", str(tmp_path), metainfo={"classes": ["bush"]}, data_prefix={"pts": ""})
    sample = dataset[0]
    assert sample["ann_info"]["gt_labels_3d"].tolist() == [0]
    assert_close(sample["ann_info"]["gt_bboxes_3d"].tensor, [instance["bbox_3d"]])
    assert sample["lidar_path"] == str(tmp_path / "a.bin")


# ---------------------------------------------------------------- wrappers


def test_repeated_and_joined(tiny: Path) -> None:
    cfg = dataset_cfg(tiny, pipeline=[lambda results: results])
    twice = RepeatDataset(cfg, times=2)
    assert len(twice) == 8
    assert twice[6]["sample_idx"] == 2
    assert twice.get_data_info(-1)["sample_idx"] == 3
    assert twice.metainfo["classes"] == tuple(CLASSES)
    joined = ConcatDataset([cfg, {**cfg, "ann_file": "kitti_infos_val.pkl"}])
    assert [sample["sample_idx"] for sample in joined] == [0, 1, 2, 3, 4, 5]
    assert joined[-1]["sample_idx"] == 5
    assert joined.get_data_info(4)["sample_idx"] == 4
    nested = RepeatDataset(ConcatDataset([twice, joined], lazy_init=True), times=1)
    assert len(nested) == 14
    assert nested.disable_transform("Nothing", 2) == 0
    for dataset in (twice, joined):
        with pytest.raises(IndexError):
            dataset[len(dataset)]
    with pytest.raises(InputError, match="times must be at least 1"):
        RepeatDataset(cfg, times=0)
    with pytest.raises(InputError, match="datasets is empty"):
        ConcatDataset([])
    with pytest.raises(InputError, match=r"datasets\[0\] has classes .* datasets\[1\] has"):
        ConcatDataset([cfg, {**cfg, "metainfo": {"classes": ["Car"]}}])
    assert len(ConcatDataset([cfg, {**cfg, "metainfo": {"classes": ["Car"]}}], ignore_keys="classes")) == 8


# ---------------------------------------------------------------- real frames


@needs_shared
def test_real_frames_read_as_they_should(tmp_path: Path) -> None:
    root = tmp_path / "kitti"
    for source in (path for path in KITTI.rglob("*") if path.is_file()):
        target = root / source.relative_to(KITTI)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    prepare_kitti(root)
    cfg = dataset_cfg(root, split="trainval", pipeline=train_pipeline(root, plane=True)[:2])
    found = {sample["sample_idx"]: sample for sample in DATASETS.build(cfg)}
    assert {key: len(found[key]["points"]) for key in found} == {0: 20285, 2: 20210, 1: 18630, 8: 17238, 134: 19097}
    boxes, points = found[8]["gt_bboxes_3d"], torch.from_numpy(found[8]["points"])
    assert boxes.points_in_boxes(points).sum(0).tolist() == [1325, 1900, 881, 659, 55, 162]
    assert found[8]["ann_info"]["num_lidar_pts"].tolist() == [1325, 1900, 881, 659, 55, 162]
    assert found[0]["gt_bboxes_3d"].points_in_boxes(torch.from_numpy(found[0]["points"])).sum().item() == 377
    database = read_infos(root / "kitti_dbinfos_train.pkl")
    assert {name: len(objects) for name, objects in database.items()} == {
        "Pedestrian": 1,
        "Truck": 1,
        "Car": 2,
        "Cyclist": 1,
        "Misc": 1,
    }
    cut = np.fromfile(root / "kitti_gt_database/0_Pedestrian_0.bin", np.float32).reshape(-1, 4)
    assert cut.shape == (377, 4)
    assert np.abs(cut[:, :2]).max() < 1
    assert 0 <= cut[:, 2].min() <= cut[:, 2].max() < 1.89
    whole = DATASETS.build(dataset_cfg(root, split="trainval", pipeline=train_pipeline(root)))
    assert len(whole[3]["data_samples"].gt_instances_3d.labels_3d) >= 3


@pytest.mark.parametrize("folder", ["written", "unwritable"])
def test_cached_infos_give_the_samples_of_the_file(
    tiny: Path, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rewrite(tiny, tmp_path, lambda content: content)
    with np.printoptions(threshold=10**6, precision=17):
        expected = repr([build(root)[i] for i in range(4)])
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    if folder == "unwritable":
        (root / ".kitti_infos_train.pkl.cache.lock").mkdir()
    for _ in range(2):
        dataset = build(root)
        with np.printoptions(threshold=10**6, precision=17):
            assert repr([dataset[i] for i in range(4)]) == expected
        again = pickle.loads(pickle.dumps(dataset.get_data_info(2)))
        assert again["sample_idx"] == 2
    assert (root / "kitti_infos_train.pkl.cache").exists() == (folder == "written")


def test_cache_is_renewed_with_the_info_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    root = rewrite(tiny, tmp_path, lambda content: content)
    assert len(build(root)) == len(build(root)) == 4

    def shorten(content):
        del content["data_list"][1:]

    assert len(build(rewrite(tiny, tmp_path, shorten))) == 1


class OwnParsing(KittiDataset):
    """Parses frames in its own way, counts them, and drops the first."""

    parsed = 0

    def parse_data_info(self, info):
        self.parsed += 1
        return [super().parse_data_info(info)] * 2

    def filter_data(self):
        return self.data_list[1:]


def test_class_with_own_parsing_sees_all_frames_at_once(tiny: Path) -> None:
    dataset = OwnParsing(**{key: value for key, value in dataset_cfg(tiny, pipeline=[]).items() if key != "type"})
    assert dataset.parsed == 4
    assert [dataset.get_data_info(i)["sample_idx"] for i in range(len(dataset))] == [0, 1, 1, 2, 2, 3, 3]
    assert dataset.parsed == 4


def test_classes_that_the_info_file_lacks_are_named(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(content):
        content["metainfo"]["categories"] = {
            "auto" if name == "Car" else name: number for name, number in content["metainfo"]["categories"].items()
        }

    with caplog.at_level("WARNING", logger="raydet3d"):
        assert build(rewrite(tiny, tmp_path, rename))[1]["ann_info"]["gt_labels_3d"].tolist() == [0, 1]
    assert "categories lack 'Car'" in caplog.text
