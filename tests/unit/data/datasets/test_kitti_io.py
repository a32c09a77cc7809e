"""KITTI's raw files, against numbers worked out by hand and the facts that come with the real frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raydet3d.data.datasets.kitti_io import (
    camera_to_lidar,
    in_view,
    lidar_to_camera,
    read_calib,
    read_image_size,
    read_labels,
    read_plane,
)
from raydet3d.data.point_cloud_file import read_cloud
from raydet3d.errors import InputError
from raydet3d.ops.points import points_in_boxes
from raydet3d.structures import CameraInstance3DBoxes
from tests.kit.shared import KITTI, needs_shared
from tests.kit.tiny_kitti import AXES, DONT_CARE, P2, calib, label, png

LIDAR2CAM = np.vstack([AXES, [0, 0, 0, 1]])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_calib_file_is_padded_to_4x4(tmp_path: Path) -> None:
    found = read_calib(write(tmp_path / "0.txt", calib()))
    assert np.array_equal(found.lidar2cam, LIDAR2CAM)
    assert np.array_equal(found.p[2], np.vstack([P2, [0, 0, 0, 1]]))
    assert np.array_equal(found.imu_to_velo, np.eye(4))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("R0_rect", "R0", "has no R0_rect"),
        ("Tr_velo_to_cam: ", "Tr_velo_to_cam: 1 ", "line 6: Tr_velo_to_cam has 13 numbers, not 12"),
        ("P2: ", "P2: x ", "line 3: P2 holds something that is not a number"),
    ],
)
def test_a_bad_calib_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path / "000004.txt", calib().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        read_calib(path)
    assert str(path) in str(caught.value)


def test_a_calib_file_without_the_inertial_unit_is_read(tmp_path: Path) -> None:
    text = "\n".join(line for line in calib().splitlines() if "imu" not in line)
    assert read_calib(write(tmp_path / "0.txt", text)).imu_to_velo is None


def test_labels_are_read_in_the_order_l_h_w(tmp_path: Path) -> None:
    line = "Car 0.88 3 -0.69 0.00 192.37 402.31 374.00 1.60 1.57 3.23 -2.70 1.74 3.68 -1.29"
    found = read_labels(write(tmp_path / "0.txt", f"{line}\n\n{DONT_CARE}\n{line} 0.9\n"))
    assert found.names == ("Car", "DontCare", "Car")
    assert found.boxes[0].tolist() == [-2.70, 1.74, 3.68, 3.23, 1.60, 1.57, -1.29]
    assert found.bbox[0].tolist() == [0, 192.37, 402.31, 374.0]
    assert (found.truncated[0], found.occluded[0], found.alpha[0]) == (0.88, 3, -0.69)
    assert found.score.tolist() == [0, 0, 0.9]


def test_difficulty_follows_height_occlusion_and_truncation(tmp_path: Path) -> None:
    def line(tall: float, hidden: int, cut: float) -> str:
        return f"Car {cut} {hidden} 0 0 100 50 {100 + tall} 1 1 1 0 0 9 0"

    cases = [
        (40.1, 0, 0.15),
        (40, 0, 0.15),
        (41, 1, 0),
        (26, 0, 0.3),
        (26, 2, 0.5),
        (25, 0, 0),
        (50, 3, 0),
        (30, 0, 0.4),
    ]
    text = "\n".join([*(line(*case) for case in cases), line(50, 0, 0.51), DONT_CARE])
    found = read_labels(write(tmp_path / "0.txt", text)).difficulty
    assert found.tolist() == [0, 1, 1, 1, 2, -1, -1, 2, -1, -1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Car 0 0 0 1 2 3 4 1 1 1 0 0 9", "line 2: 14 fields, the field 'rotation_y' is missing"),
        ("Car 0 0 0 1 2 3 4 1 1 1 0 zero 9 0", "line 2: y is 'zero', not a number"),
        ("Car 0 0 0 1 2 3 4 1 1 1 0 0 9 0 1 1", "line 2: 17 fields"),
    ],
)
def test_a_bad_label_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "000007.txt", f"{label('Car', 10, 0)}\n{line}\n")
    with pytest.raises(InputError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)


def test_an_empty_label_file_has_no_objects(tmp_path: Path) -> None:
    found = read_labels(write(tmp_path / "0.txt", "\n"))
    assert len(found) == 0
    assert found.boxes.shape == (0, 7)
    assert camera_to_lidar(found.boxes, LIDAR2CAM).shape == (0, 7)


def test_a_plane_has_a_unit_normal_that_points_up(tmp_path: Path) -> None:
    path = write(tmp_path / "0.txt", "# Matrix\nWIDTH 4\nHEIGHT 1\n0 2 0 -3.3\n")
    assert read_plane(path) == pytest.approx([0, -1, 0, 1.65])
    with pytest.raises(InputError, match="line 4: a plane is 4 numbers"):
        read_plane(write(tmp_path / "1.txt", "a\nb\nc\n1 2 3\n"))


def test_image_size_comes_from_the_header_and_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    path.write_bytes(png(370, 1224))
    assert read_image_size(path) == ((370, 1224), True)
    for cut in (1, 12, 100):
        path.write_bytes(png(370, 1224)[:-cut])
        assert read_image_size(path) == ((370, 1224), False)
    path.write_bytes(png()[:20])
    with pytest.raises(InputError, match=r"0\.png: "):
        read_image_size(path)
    path = tmp_path / "0.jpg"
    Image.new("RGB", (621, 187)).save(path)
    assert read_image_size(path) == ((187, 621), True)
    path.write_bytes(path.read_bytes()[:-300])
    assert read_image_size(path) == ((187, 621), False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({8: "0"}, "size of zero"),
        ({9: "-1.5"}, "size of zero"),
        ({10: "nan"}, "not finite"),
        ({13: "inf"}, "not finite"),
        ({4: "nan"}, "not finite"),
        ({11: "1e6"}, "coordinate beyond"),
        ({10: "4000"}, "size above"),
        ({14: "-90"}, "degrees"),
    ],
)
def test_impossible_boxes_become_dont_care_regions(tmp_path: Path, change: dict[int, str], reason: str) -> None:
    words = label("Car", 10, 0).split()
    for field, word in change.items():
        words[field] = word
    text = f"{' '.join(words)}\n{label('Van', 20, 3)}\n{DONT_CARE}\n"
    found, reasons = read_labels(write(tmp_path / "0.txt", text)).without_bad_boxes()
    assert found.names == ("DontCare", "Van", "DontCare")
    assert list(reasons) == [0]
    assert reason in reasons[0]
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.bbox).all()
    assert found.boxes[0].tolist() == found.boxes[2].tolist()
    assert found.difficulty.tolist() == [-1, 0, -1]


def test_dont_care_lines_are_no_impossible_boxes(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path / "0.txt", f"{label('Car', 10, 0)}\n{DONT_CARE}\n"))
    assert labels.without_bad_boxes() == (labels, {})


def test_byte_order_marks_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "0.txt"
    path.write_text(f"{label('Car', 10, 0)}\n", encoding="utf-8-sig")
    assert read_labels(path).names == ("Car",)
    path.write_text(calib(), encoding="utf-8-sig")
    assert set(read_calib(path).p) == {0, 1, 2, 3}
    path.write_text(calib(), encoding="utf-16")
    with pytest.raises(InputError, match="UTF-8"):
        read_calib(path)


def test_p2_is_the_only_projection_that_is_needed(tmp_path: Path) -> None:
    text = "\n".join(line for line in calib().splitlines() if line[:2] not in ("P0", "P1", "P3"))
    found = read_calib(write(tmp_path / "0.txt", text))
    assert list(found.p) == [2]
    assert found.guess_image_size() == (360, 1200)
    with pytest.raises(InputError, match="has no P2"):
        read_calib(write(tmp_path / "1.txt", text.replace("P2", "P9")))


def test_a_camera_box_converts_to_the_lidar_frame() -> None:
    # 1 m left of, 10 m before the sensor, standing 1.7 m below it, heading away (ry = -pi/2).
    camera = np.array([[-1.0, 1.7, 10.0, 4.0, 1.5, 1.6, -np.pi / 2]])
    lidar = camera_to_lidar(camera, LIDAR2CAM)
    assert lidar[0] == pytest.approx([10.0, 1.0, -1.7, 4.0, 1.6, 1.5, 0.0])
    assert lidar_to_camera(lidar, LIDAR2CAM)[0] == pytest.approx(camera[0])
    # Heading to the right is yaw -pi/2.
    camera[0, 6] = 0
    assert camera_to_lidar(camera, LIDAR2CAM)[0, 6] == pytest.approx(-np.pi / 2)


def test_boxes_agree_with_the_structures() -> None:
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)) * 0.05 + AXES[:, :3])
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3], lidar2cam[:3, 3] = turn, rng.normal(size=3)
    boxes = rng.uniform((-20, -2, 2, 0.5, 0.5, 0.5, -3), (20, 2, 60, 5, 3, 3, 3), (50, 7))
    theirs = CameraInstance3DBoxes(torch.tensor(boxes)).convert_to("lidar", np.linalg.inv(lidar2cam))
    ours = camera_to_lidar(boxes, lidar2cam)
    ours[:, 6] -= np.round((ours[:, 6] - theirs.tensor[:, 6].numpy()) / (2 * np.pi)) * 2 * np.pi
    assert np.abs(ours - theirs.tensor.numpy()).max() < 2e-5


def test_the_camera_sees_its_frustum_only() -> None:
    lidar2img = np.vstack([P2, [0, 0, 0, 1]]) @ LIDAR2CAM
    # At 10 m: u = 600 - 70 y, v = 180 - 70 z.
    ahead = [[10, 0, 0], [-10, 0, 0], [0, 0, 0], [101, 0, 0]]
    sideways = [[10, 600 / 70 - 0.01, 0], [10, 600 / 70 + 0.01, 0], [10, -642 / 70 - 0.01, 0]]
    upright = [[10, 0, 180 / 70 + 0.01], [10, 0, -195 / 70 + 0.01], [10, 0, -195 / 70 - 0.01]]
    points = np.array([*ahead, *sideways, *upright])
    seen = in_view(points, lidar2img, (375, 1242))
    assert seen.tolist() == [True, False, False, False, True, False, False, False, True, False]


@needs_shared
@pytest.mark.parametrize(
    ("name", "points"), [("000000", 20285), ("000001", 18630), ("000002", 20210), ("000008", 17238), ("000134", 19097)]
)
def test_real_clouds_reduce_to_the_known_numbers(name: str, points: int) -> None:
    folder = KITTI / "training"
    found, size = read_calib(folder / f"calib/{name}.txt"), read_image_size(folder / f"image_2/{name}.png")[0]
    assert found.guess_image_size() == size
    cloud = read_cloud(folder / f"velodyne/{name}.bin")
    assert in_view(cloud, found.p[2] @ found.lidar2cam, size).sum() == points


@needs_shared
def test_real_objects_hold_the_known_points() -> None:
    def counts(name: str) -> list[int]:
        folder = KITTI / "training"
        found, labels = read_calib(folder / f"calib/{name}.txt"), read_labels(folder / f"label_2/{name}.txt")
        boxes = camera_to_lidar(labels.boxes, found.lidar2cam)
        cared = [kind != "DontCare" for kind in labels.names]
        cloud = read_cloud(folder / f"velodyne/{name}.bin").astype(np.float64)
        return points_in_boxes(cloud, boxes[cared]).sum(0).tolist()

    assert counts("000008") == [1325, 1900, 881, 659, 55, 162]
    assert counts("000000") == [377]


@needs_shared
@pytest.mark.parametrize("name", ["000000", "000001", "000002", "000008", "000134"])
def test_real_labels_survive_the_way_through_float32_lidar_boxes(name: str) -> None:
    folder = KITTI / "training"
    found, labels = read_calib(folder / f"calib/{name}.txt"), read_labels(folder / f"label_2/{name}.txt")
    there = camera_to_lidar(labels.boxes, found.lidar2cam).astype(np.float32)
    back = lidar_to_camera(there.astype(np.float64), found.lidar2cam)
    cared = [kind != "DontCare" for kind in labels.names]
    assert np.abs(back - labels.boxes)[cared].max() < 1e-5
