"""`NuScenesDataset`: labels, box frame, velocities, filters, paths of sweeps, older info files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.data import NuScenesDataset
from raydet3d.errors import InputError
from raydet3d.ops.points import points_in_boxes
from raydet3d.registry import DATASETS
from raydet3d.structures import CameraInstance3DBoxes, LiDARInstance3DBoxes
from tests.kit.close import assert_close
from tests.kit.shared import NUSCENES, needs_nuscenes

EYE = np.eye(4).tolist()


def instance(
    label: int, *, lidar: int = 5, radar: int = 0, velocity: tuple[float, float] = (1.0, 2.0), x: float = 10.0
):
    return {
        "bbox_3d": [x, 2.0, 0.5, 4.0, 2.0, 1.5, 0.3],
        "bbox_label": label,
        "bbox_label_3d": label,
        "velocity": list(velocity),
        "num_lidar_pts": np.int64(lidar),
        "num_radar_pts": np.int64(radar),
        "bbox_3d_isvalid": np.bool_(lidar + radar > 0),
    }


def frame(number: int, instances: list[dict[str, Any]]) -> dict[str, Any]:
    def sweep(path: str, lag: float) -> dict[str, Any]:
        points = {"lidar_path": path, "lidar2sensor": EYE, "lidar2ego": EYE}
        return {"timestamp": 10.0 - lag, "lidar_points": points, "ego2global": EYE, "sample_data_token": "t"}

    return {
        "sample_idx": number,
        "token": f"token{number}",
        "timestamp": 10.0,
        "ego2global": EYE,
        "lidar_points": {"num_pts_feats": 5, "lidar_path": f"key{number}.pcd.bin", "lidar2ego": EYE},
        "lidar_sweeps": [
            sweep("/elsewhere/samples/nuscenes/sweeps/LIDAR_TOP/a.pcd.bin", 0.05),
            sweep("./data/nuscenes/samples/LIDAR_TOP/b.pcd.bin", 0.5),
        ],
        "images": {},
        "instances": instances,
    }


def write(root: Path, instances: list[dict[str, Any]], **metainfo: Any) -> Path:
    categories = {name: number for number, name in enumerate(NuScenesDataset.METAINFO["classes"])} | {"animal": -1}
    meta = {"categories": categories, "dataset": "nuscenes", "version": "v1.0-mini", "info_version": "1.1", **metainfo}
    (root / "infos.pkl").write_bytes(pickle.dumps({"metainfo": meta, "data_list": [frame(0, instances), frame(1, [])]}))
    return root


def build(root: Path, **changes: Any) -> NuScenesDataset:
    prefix = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", "img": ""}
    cfg = {"type": "NuScenesDataset", "data_root": str(root), "ann_file": "infos.pkl", "data_prefix": prefix}
    return DATASETS.build({**cfg, **changes})


def test_boxes_stand_on_their_bottom_and_carry_velocities(tmp_path: Path) -> None:
    nan = float("nan")
    dataset = build(write(tmp_path, [instance(0), instance(7, velocity=(nan, nan)), instance(-1)]))
    annotation = dataset.get_data_info(0)["ann_info"]
    boxes = annotation["gt_bboxes_3d"]
    assert type(boxes) is LiDARInstance3DBoxes
    assert_close(boxes.tensor[0], [10, 2, 0.5 - 0.75, 4, 2, 1.5, 0.3, 1, 2], atol=1e-6)
    assert boxes.tensor[1, 7:].tolist() == [0, 0]
    assert annotation["gt_labels_3d"].tolist() == [0, 7]
    empty = dataset.get_data_info(1)["ann_info"]
    assert empty["gt_bboxes_3d"].tensor.shape == (0, 9)
    assert build(tmp_path, with_velocity=False).get_data_info(0)["ann_info"]["gt_bboxes_3d"].tensor.shape == (2, 7)


def test_objects_need_a_lidar_point_or_a_valid_flag(tmp_path: Path) -> None:
    root = write(tmp_path, [instance(0), instance(1, lidar=0, radar=3), instance(2, lidar=0)])
    assert build(root).get_data_info(0)["ann_info"]["gt_labels_3d"].tolist() == [0]
    assert build(root, use_valid_flag=True).get_data_info(0)["ann_info"]["gt_labels_3d"].tolist() == [0, 1]


def test_parse_ann_info_returns_box_objects_for_subclasses(tmp_path: Path) -> None:
    seen = []

    class Near(NuScenesDataset):
        def parse_ann_info(self, info):
            annotation = super().parse_ann_info(info)
            keep = annotation["gt_bboxes_3d"].gravity_center.norm(dim=1).numpy() < 15
            seen.append(type(annotation["gt_bboxes_3d"]))
            return {key: value[keep] for key, value in annotation.items()}

        def filter_data(self):
            limit = self.filter_cfg["min_objects"]
            return [sample for sample in self.data_list if len(sample["ann_info"]["gt_labels_3d"]) >= limit]

    root = write(tmp_path, [instance(0), instance(7, x=20.0)])
    dataset = Near(data_root=str(root), ann_file="infos.pkl", filter_cfg={"min_objects": 1})
    assert len(dataset) == 1
    assert dataset.get_cat_ids(0) == {0}
    assert set(seen) == {LiDARInstance3DBoxes}
    with pytest.raises(InputError, match="filter_cfg"):
        NuScenesDataset(data_root=str(root), ann_file="infos.pkl", filter_cfg={"min_objects": 1})


def test_camera_boxes_are_converted(tmp_path: Path) -> None:
    boxes = build(write(tmp_path, [instance(0)]), box_type_3d="Camera").get_data_info(0)["ann_info"]["gt_bboxes_3d"]
    assert type(boxes) is CameraInstance3DBoxes
    assert_close(boxes.tensor[0], [-2, 0.25, 10, 4, 1.5, 2, -0.3 - np.pi / 2, -2, 1], atol=1e-5)
    with pytest.raises(InputError, match="LiDAR or Camera"):
        build(tmp_path, box_type_3d="Depth")


def test_sweeps_are_found_by_file_name(tmp_path: Path) -> None:
    sample = build(write(tmp_path, [instance(0)])).get_data_info(0)
    assert sample["lidar_path"] == str(tmp_path / "samples/LIDAR_TOP/key0.pcd.bin")
    assert [sweep["lidar_points"]["lidar_path"] for sweep in sample["lidar_sweeps"]] == [
        str(tmp_path / "sweeps/LIDAR_TOP/a.pcd.bin"),
        str(tmp_path / "samples/LIDAR_TOP/b.pcd.bin"),
    ]


def test_the_version_is_the_info_files_unless_the_config_names_one(tmp_path: Path) -> None:
    root = write(tmp_path, [instance(0)])
    assert build(root).metainfo["version"] == "v1.0-mini"
    assert build(root, metainfo={"version": "v1.0-test"}).metainfo["version"] == "v1.0-test"
    renamed = build(root, metainfo={"classes": ["bus", "car"]})
    assert renamed.get_data_info(0)["ann_info"]["gt_labels_3d"].tolist() == [1]


def test_instances_without_the_keys_that_are_read_are_refused(tmp_path: Path) -> None:
    for key, match in (("num_lidar_pts", "num_lidar_pts"), ("velocity", "with_velocity=False")):
        bad = instance(0)
        del bad[key]
        with pytest.raises(InputError, match=match):
            build(write(tmp_path, [bad]))


def test_the_older_info_layout_is_converted(tmp_path: Path) -> None:
    turn = [np.cos(0.1), 0.0, 0.0, np.sin(0.1)]
    pose = {"ego2global_rotation": turn, "ego2global_translation": [5.0, 6.0, 0.0]}
    sensor = {"sensor2ego_rotation": [1.0, 0, 0, 0], "sensor2ego_translation": [1.0, 0, 2.0], **pose}
    turned = {"sensor2lidar_rotation": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), "timestamp": 9_900_000}
    turned |= {"sensor2lidar_translation": np.array([3.0, 4, 5]), "sample_data_token": "t", **sensor}
    infos = [
        {
            "lidar_path": "./data/nuscenes/samples/LIDAR_TOP/key0.pcd.bin",
            "token": "token0",
            "timestamp": 10_000_000,
            "lidar2ego_rotation": [1.0, 0, 0, 0],
            "lidar2ego_translation": [1.0, 0.0, 2.0],
            **pose,
            "sweeps": [{"data_path": "./data/nuscenes/sweeps/LIDAR_TOP/a.pcd.bin", **turned}],
            "cams": {"CAM_FRONT": {"data_path": "x/y/front.jpg", "cam_intrinsic": np.eye(3), **turned}},
            "gt_boxes": np.array([[10.0, 2, 0.5, 4, 2, 1.5, 0.3], [1.0, 1, 1, 1, 1, 1, 0]]),
            "gt_names": np.array(["car", "animal"]),
            "gt_velocity": np.array([[1.0, 2], [0, 0]]),
            "num_lidar_pts": np.array([5, 5]),
            "num_radar_pts": np.array([0, 0]),
            "valid_flag": np.array([True, True]),
        }
    ]
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps({"infos": infos, "metadata": {"version": "v1.0-mini"}}))
    sample = build(tmp_path).get_data_info(0)
    assert_close(sample["ann_info"]["gt_bboxes_3d"].tensor[0], [10, 2, -0.25, 4, 2, 1.5, 0.3, 1, 2], atol=1e-6)
    assert sample["timestamp"] == 10.0
    sweep = sample["lidar_sweeps"][0]
    at = np.array(sweep["lidar_points"]["lidar2sensor"]) @ [3.0 - 2, 4 + 1, 5, 1]
    assert_close(at, [1, 2, 0, 1], atol=1e-6)  # R (1, 2, 0) + t = (-2 + 3, 1 + 4, 5)
    assert_close(np.array(sample["ego2global"])[:2, 3], [5, 6], atol=1e-6)
    del infos[0]["gt_names"]
    path.write_bytes(pickle.dumps({"infos": infos, "metadata": {}}))
    with pytest.raises(InputError, match="frame 0 of a v1 nuScenes info file has no key 'gt_names'"):
        build(tmp_path)


@needs_nuscenes
def test_boxes_of_the_real_keyframe_sit_on_their_points() -> None:
    pipeline = [{"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5}]
    file = next(NUSCENES.glob("*.pkl")).name
    dataset = NuScenesDataset(str(NUSCENES), file, pipeline, data_prefix={"pts": "", "sweeps": "", "img": ""})
    assert dataset.metainfo["version"] == "v1.0-mini"
    sample = dataset[0]
    assert sample["points"].shape == (34688, 5)
    boxes = sample["ann_info"]["gt_bboxes_3d"].tensor.numpy()
    counted = points_in_boxes(sample["points"][:, :3].astype(np.float64), boxes[:, :7].astype(np.float64)).sum(0)
    stated = sample["ann_info"]["num_lidar_pts"]
    # The tables count points on the box's surface too, and were made from a slightly different pose.
    assert np.abs(counted - stated).max() <= np.maximum(2, 0.1 * stated).max()
    assert (counted > 0).mean() > 0.95
    assert_close(counted.sum() / stated.sum(), 1.0, atol=0.02)
