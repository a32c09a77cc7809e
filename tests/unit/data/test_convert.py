"""Converters: KITTI's tracking data and tables of other makers become own data; a converter of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.data import CustomDataset
from raydet3d.data.convert import CONVERTERS, CustomLayoutWriter, convert_kitti_tracking, convert_scene_tables
from raydet3d.data.convert.__main__ import main
from raydet3d.data.prepare import prepare_custom
from raydet3d.info_file import read_infos
from raydet3d.ops.points import points_in_boxes
from raydet3d.ops.rigid_transforms import invert, quaternion_to_matrix
from tests.kit.close import assert_close
from tests.kit.input_errors import message
from tests.kit.tiny_kitti import AXES, DONT_CARE, P2, label, png
from tests.kit.tiny_nuscenes import OBJECTS, VERSION, ego_pose, object_pose, write_nuscenes

LATITUDE, LONGITUDE = 49.0, 8.4


def write_tracking(root: Path, *, sequences: int = 2, frames: int = 3) -> Path:
    """Sequences of a car that drives east at 10 m/s and looks north-east, past a standing car and a driving one."""
    for sequence in range(sequences):
        name = f"{sequence:04d}"
        folder = root / "training"
        rows, gps = [], []
        for frame in range(frames):
            east = frame * 1.0
            yaw = np.pi / 4
            degrees = LONGITUDE + np.rad2deg(east / (6378137.0 * np.cos(np.deg2rad(LATITUDE))))
            gps.append(f"{LATITUDE} {degrees:.12f} 100.0 0 0 {yaw:.9f} " + "0 " * 24)
            for track, (x, y) in enumerate([(30.0, 5.0), (20.0 + 2.0 * frame, 0.0)]):
                # From east, north to the car's axes.
                dx, dy = x - east, y
                local = (np.cos(yaw) * dx + np.sin(yaw) * dy, -np.sin(yaw) * dx + np.cos(yaw) * dy)
                rows.append(f"{frame} {track} {label('Car', *local, yaw=-yaw, z=-1.7)}")
            rows.append(f"{frame} -1 {DONT_CARE}")
            cloud = np.random.default_rng(frame).uniform(-5, 5, (50, 4)).astype(np.float32)
            write(folder / "velodyne" / name / f"{frame:06d}.bin", cloud.tobytes())
            write(folder / "image_02" / name / f"{frame:06d}.png", png(20, 30))
        write(folder / "label_02" / f"{name}.txt", "\n".join(rows))
        write(folder / "oxts" / f"{name}.txt", "\n".join(gps))
        lines = [f"P{i}: " + " ".join(map(str, P2.ravel())) for i in range(4)]
        lines += ["R_rect " + " ".join(map(str, np.eye(3).ravel())), "Tr_velo_cam " + " ".join(map(str, AXES.ravel()))]
        lines += ["Tr_imu_velo " + " ".join(map(str, np.eye(4)[:3].ravel()))]
        write(folder / "calib" / f"{name}.txt", "\n".join(lines))
    return root


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_kitti_tracking_becomes_own_data(tmp_path: Path) -> None:
    source = write_tracking(tmp_path / "kitti")
    root = tmp_path / "own"
    convert_kitti_tracking(source, root)
    prepare_custom(root)
    infos = read_infos(root / "custom_infos_train.pkl")["data_list"]
    assert [info["sample_idx"] for info in infos] == [f"0000/{i:06d}" for i in range(3)]
    assert len(read_infos(root / "custom_infos_val.pkl")["data_list"]) == 3
    middle = infos[1]
    assert_close(middle["timestamp"], 0.1)
    assert [len(info.get("lidar_sweeps", [])) for info in infos] == [0, 1, 2]
    # The standing car does not move, the other one drives east at 20 m/s; the recorder looks north-east.
    standing, driving = middle["instances"]
    assert_close(standing["velocity"], [0, 0], atol=1e-2)
    assert_close(driving["velocity"], 20 * np.array([np.cos(-np.pi / 4), np.sin(-np.pi / 4)]), atol=1e-2)
    assert_close(standing["bbox_3d"][3:6], [4.0, 1.6, 1.5])
    # A metre further east in each frame.
    east = [info["ego2global"][0][3] for info in infos]
    assert_close(np.diff(east), [1, 1], atol=1e-5)
    camera = middle["images"]["CAM2"]
    assert camera["img_path"] == "images/CAM2/0000/000001.png"
    assert_close(camera["lidar2cam"][0], [0, -1, 0, 0])
    # Sweeps: the standing car's place, seen from the frame before, is moved to its place now.
    before = np.array(infos[0]["instances"][0]["bbox_3d"][:3])
    move = np.array(middle["lidar_sweeps"][0]["lidar_points"]["lidar2sensor"])
    assert_close(move[:3, :3] @ standing["bbox_3d"][:3] + move[:3, 3], before, atol=1e-3)


def two_lidars(tables: dict[str, list[dict[str, Any]]]) -> None:
    """Give the maker names of its own, and a second LiDAR whose files are the first one's."""
    tables["sensor"][0] |= {"channel": "roof"}
    tables["sensor"].append({"token": "sensor-rear", "channel": "rear", "modality": "lidar"})
    mounting = next(one for one in tables["calibrated_sensor"] if one["sensor_token"] == "sensor-LIDAR_TOP")
    moved = {**mounting, "token": "calibration-rear", "sensor_token": "sensor-rear"}
    tables["calibrated_sensor"].append({**moved, "translation": [mounting["translation"][0], 0.0, 3.84]})
    first = [one for one in tables["sample_data"] if one["calibrated_sensor_token"] == "calibration-LIDAR_TOP"]
    for one in first:
        extra = {"token": f"rear-{one['token']}", "calibrated_sensor_token": "calibration-rear"}
        tables["sample_data"].append({**one, **extra, "prev": "", "next": "", "timestamp": one["timestamp"] + 9000})
    for one in tables["category"]:
        one["name"] = one["name"].replace("vehicle.car", "Pkw")


def test_tables_of_another_maker_become_own_data(tmp_path: Path) -> None:
    source = write_nuscenes(tmp_path / "maker", change=two_lidars)
    root = tmp_path / "own"
    assert main(["scene_tables", str(source), str(root), "--val", "scene-0103"]) == 0
    settings = json.loads((root / "dataset.json").read_text())
    assert {"Pkw", "animal", "vehicle.truck"} <= set(settings["classes"])
    prepare_custom(root)
    infos = read_infos(root / "custom_infos_train.pkl")["data_list"]
    assert [info["sample_idx"] for info in infos] == [f"scene-0061/{i:06d}" for i in (0, 5, 10)]
    info = infos[1]
    assert len(info["lidar_sweeps"]) == 5
    assert_close(info["ego2global"], quaternion_to_matrix(*ego_pose(0, 0.5)))
    back = invert(quaternion_to_matrix(*ego_pose(0, 0.5)))
    center, _, velocity = object_pose(0, 0, 0.5)
    car = info["instances"][0]
    size = OBJECTS[0][3]
    assert_close(car["bbox_3d"][:3], back[:3, :3] @ center + back[:3, 3] - [0, 0, size[2] / 2], atol=1e-6)
    assert_close(car["bbox_3d"][3:6], [size[1], size[0], size[2]])
    assert_close(car["velocity"], (back[:3, :3] @ velocity)[:2], atol=1e-6)
    # Both LiDARs: the second one's points are 2 m higher, as its mounting says.
    names = read_infos(root / "custom_infos_train.pkl")["metainfo"]["categories"]
    assert car["bbox_label_3d"] == names["Pkw"]
    assert car["num_lidar_pts"] == 30
    points = np.fromfile(root / info["lidar_points"]["lidar_path"], np.float32).reshape(-1, 5)
    lifted = np.add([car["bbox_3d"]], [0, 0, 2, 0, 0, 0, 0])
    assert points_in_boxes(points[:, :3].astype(float), lifted).sum() >= 30
    dataset = CustomDataset("custom_infos_val.pkl", str(root), metainfo={"classes": ["Pkw"]}, with_velocity=True)
    assert len(dataset) == 2


def test_a_converter_of_ones_own(tmp_path: Path) -> None:
    """The example in the module's docstring, in another frame, with its conventions."""
    rng = np.random.default_rng(0)
    conventions = {"axes": ["forward", "right", "up"], "classes": ["car"]}
    with CustomLayoutWriter(tmp_path / "own", conventions=conventions) as out:
        for number in range(3):
            points = np.add(rng.uniform(-1, 1, (20, 4)), [10, 4, 0, 0])
            box = {"class": "car", "center": np.array([10.0, 4, 0]), "size": [4, 2, 2], "yaw": 0.1}
            out.add(f"a/{number}", points, objects=[box], split="val" if number == 2 else "train")
    prepare_custom(tmp_path / "own")
    info = read_infos(tmp_path / "own" / "custom_infos_val.pkl")["data_list"][0]
    assert_close(info["instances"][0]["bbox_3d"], [10, -4, -1, 4, 2, 2, 0.1])
    assert info["instances"][0]["num_lidar_pts"] > 15


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    source = write_tracking(tmp_path / "kitti", sequences=1)
    assert "velodyne" in message(lambda: convert_kitti_tracking(tmp_path, tmp_path / "own"))
    assert "'0007'" in message(lambda: convert_kitti_tracking(source, tmp_path / "own", val=["0007"]))
    (source / "training/label_02/0000.txt").write_text("0 1 Car 0 0\n")
    assert "0000.txt line 1" in message(lambda: convert_kitti_tracking(source, tmp_path / "own"))
    assert "--version" in message(lambda: convert_scene_tables(source, tmp_path / "own"))
    assert "--columns" in message(lambda: main(["kitti_tracking", str(source), str(tmp_path / "x"), "--columns", "x"]))
    with CustomLayoutWriter(tmp_path / "one") as out:
        assert "3x5" in message(lambda: out.add("a", np.zeros((3, 5))))
        out.add("a", np.zeros((3, 4)))
    assert "exists" in message(lambda: CustomLayoutWriter(tmp_path / "one"))
    assert set(CONVERTERS) >= {"kitti_tracking", "scene_tables"}
    maker = write_nuscenes(tmp_path / "maker")
    (maker / VERSION / "splits.json").write_text("[]")
    assert "splits.json" in message(lambda: convert_scene_tables(maker, tmp_path / "two"))


@pytest.mark.parametrize("name", ["kitti_tracking", "scene_tables"])
def test_help_describes_each_layout(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert name in capsys.readouterr().out
