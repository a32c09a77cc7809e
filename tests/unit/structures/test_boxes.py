import math
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.structures import (
    BOX_TYPES,
    Box3DMode,
    Boxes3D,
    CameraInstance3DBoxes,
    DepthInstance3DBoxes,
    LiDARInstance3DBoxes,
    get_box_type,
)
from tests.kit.close import assert_close
from tests.kit.shared import KITTI, needs_shared

KINDS = [LiDARInstance3DBoxes, CameraInstance3DBoxes, DepthInstance3DBoxes]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def some(kind: type[Boxes3D] = LiDARInstance3DBoxes, count: int = 9, box_dim: int = 7) -> Boxes3D:
    rng = np.random.default_rng(count)
    rows = np.concatenate(
        (
            rng.uniform([5, -20, -3], [60, 20, 1], (count, 3)),
            rng.uniform(0.5, 5, (count, 3)),
            rng.uniform(-3, 3, (count, 1)),
            rng.normal(0, 3, (count, box_dim - 7)),
        ),
        axis=1,
    )
    return kind(rows, box_dim=box_dim)


class TestContainer:
    @EVERY_KIND
    def test_accepts_tensors_arrays_and_lists(self, kind: type[Boxes3D]) -> None:
        rows = [[1, 2, 3, 4, 5, 6, 0.5]]
        for given in (rows, np.array(rows), torch.tensor(rows), torch.tensor(rows, dtype=torch.float64)):
            boxes = kind(given)
            assert boxes.tensor.dtype == torch.float32
            assert boxes.tensor.tolist() == rows
        for nothing in ([], np.zeros((0, 7)), torch.zeros(0)):
            assert kind(nothing).shape == (0, 7)
        assert kind([], box_dim=9).shape == (0, 9)

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"\(K, 7\)"):
            LiDARInstance3DBoxes(torch.zeros(2, 9))
        with pytest.raises(ValueError, match=r"\(K, 7\)"):
            LiDARInstance3DBoxes([1.0, 2, 3, 4, 5, 6, 7])
        with pytest.raises(ValueError, match="at least 7"):
            LiDARInstance3DBoxes(torch.zeros(2, 6), box_dim=6)

    def test_without_yaw(self) -> None:
        boxes = LiDARInstance3DBoxes([[1, 2, 3, 4, 5, 6]], box_dim=6, with_yaw=False)
        assert boxes.tensor.tolist() == [[1, 2, 3, 4, 5, 6, 0]]
        assert boxes.box_dim == 7
        assert not boxes.with_yaw
        assert not boxes[0].with_yaw

    def test_origin(self) -> None:
        centre = [[10, 20, 30, 4, 2, 1, 0.3]]
        given = torch.tensor(centre, dtype=torch.float32)
        assert_close(LiDARInstance3DBoxes(given, origin=(0.5, 0.5, 0.5)).tensor[0, :3], [10, 20, 29.5])
        assert_close(CameraInstance3DBoxes(given, origin=(0.5, 0.5, 0.5)).tensor[0, :3], [10, 21, 30])
        assert_close(DepthInstance3DBoxes(given, origin=(0.5, 0.5, 0.5)).tensor[0, :3], [10, 20, 29.5])
        assert_close(LiDARInstance3DBoxes(given, origin=(0.5, 0.5, 0)).tensor[0, :3], [10, 20, 30])
        assert_close(given, centre, atol=1e-6, name="the caller's tensor")

    def test_choosing(self) -> None:
        boxes = some(count=5)
        mask = torch.tensor([True, False, True, False, False])
        for index in ([0, 2], np.array([0, 2]), torch.tensor([0, 2]), mask, mask.numpy(), mask.tolist()):
            assert_close(boxes[index].tensor, boxes.tensor[[0, 2]])
        assert_close(boxes[-1].tensor, boxes.tensor[-1:])
        assert_close(boxes[np.int64(1)].tensor, boxes.tensor[1:2])
        assert_close(boxes[1:3].tensor, boxes.tensor[1:3])
        assert boxes[[]].shape == (0, 7)
        assert boxes[np.zeros(0)].shape == (0, 7)
        with pytest.raises(IndexError):
            boxes[5]
        with pytest.raises(IndexError, match="along its boxes only"):
            boxes[:, :3]

    def test_joining(self) -> None:
        one, two = some(count=3, box_dim=9), some(count=2, box_dim=9)
        both = LiDARInstance3DBoxes.cat([one, two])
        assert both.box_dim == 9
        assert_close(both.tensor, torch.cat((one.tensor, two.tensor)))
        assert len(LiDARInstance3DBoxes.cat([])) == 0
        with pytest.raises(TypeError, match="CameraInstance3DBoxes"):
            LiDARInstance3DBoxes.cat([one, some(CameraInstance3DBoxes)])

    def test_copies_and_moves(self) -> None:
        boxes = some()
        other = boxes.clone()
        other.tensor[0, 0] = 99
        assert boxes.tensor[0, 0] != 99
        assert boxes.to("meta").device.type == "meta"
        assert boxes.to("cpu").shape == boxes.shape
        assert isinstance(boxes.numpy(), np.ndarray)
        assert len(list(boxes)) == len(boxes) == 9
        assert "LiDARInstance3DBoxes" in repr(boxes)

    @EVERY_KIND
    @pytest.mark.parametrize("change", ["rotate", "flip", "scale", "translate", "limit_yaw"])
    def test_changes_leave_the_given_tensor_alone(self, kind: type[Boxes3D], change: str) -> None:
        given = some(kind).tensor + 4
        before = given.clone()
        boxes = kind(given)
        arguments = {"rotate": (0.3,), "flip": ("horizontal",), "scale": (2.0,), "translate": ((1, 2, 3),)}
        getattr(boxes, change)(*arguments.get(change, ()))
        assert not torch.equal(boxes.tensor, before)
        assert torch.equal(given, before)


class TestGeometry:
    def test_lidar_by_hand(self) -> None:
        boxes = LiDARInstance3DBoxes([[10, 5, -2, 4, 2, 1.5, math.pi / 2]])
        assert_close(boxes.gravity_center, [[10, 5, -1.25]])
        assert_close(boxes.bottom_center, [[10, 5, -2]])
        assert_close(boxes.center, boxes.bottom_center)
        assert_close(boxes.dims, [[4, 2, 1.5]])
        assert boxes.volume.item() == 12
        assert boxes.height.item() == 1.5
        assert (boxes.bottom_height.item(), boxes.top_height.item()) == (-2, -0.5)
        assert_close(boxes.bev, [[10, 5, 4, 2, math.pi / 2]], atol=1e-6)
        assert_close(boxes.nearest_bev, [[9, 3, 11, 7]], atol=1e-6)
        assert_close(boxes.corners[0].min(dim=0).values, [9, 3, -2], atol=1e-6)
        assert_close(boxes.corners[0].max(dim=0).values, [11, 7, -0.5], atol=1e-6)
        assert_close(boxes.corners[0, 4:].mean(dim=0), [10, 7, -1.25], atol=1e-6, name="the front face")

    def test_camera_by_hand(self) -> None:
        """KITTI's own formula: x' = cos(ry) l/2 + sin(ry) w/2, z' = -sin(ry) l/2 + cos(ry) w/2; y points down."""
        ry = 0.4
        boxes = CameraInstance3DBoxes([[1, 1.7, 20, 4, 1.5, 2, ry]])
        assert_close(boxes.gravity_center, [[1, 0.95, 20]], atol=1e-6)
        assert boxes.height.item() == 1.5
        assert boxes.bottom_height.item() == pytest.approx(1.7)
        assert boxes.top_height.item() == pytest.approx(0.2)
        front_left = [1 + math.cos(ry) * 2 + math.sin(ry) * 1, 1.7, 20 - math.sin(ry) * 2 + math.cos(ry) * 1]
        gap = (boxes.corners[0] - torch.tensor(front_left)).norm(dim=1)
        assert gap.min() < 1e-5
        assert_close(boxes.corners[0, :, 1].min(), 0.2, atol=1e-6)
        assert_close(boxes.bev, [[1, 20, 4, 2, -ry]], atol=1e-6)

    @EVERY_KIND
    def test_corners_agree_with_bev_and_heights(self, kind: type[Boxes3D]) -> None:
        from raydet3d.ops import bev_corners

        boxes = some(kind)
        corners = boxes.corners
        assert_close(corners.mean(dim=1), boxes.gravity_center, atol=1e-5)
        on_ground = corners[..., list(kind.GROUND)]  # (K, 8, 2)
        apart = torch.cdist(bev_corners(boxes.bev), on_ground).min(dim=2).values
        assert_close(apart, torch.zeros(len(boxes), 4), atol=2e-3)
        vertical = corners[..., kind.UP[0]]
        low, high = sorted((boxes.bottom_height, boxes.top_height), key=lambda heights: heights[0].item())
        assert_close(vertical.min(dim=1).values, low, atol=1e-5)
        assert_close(vertical.max(dim=1).values, high, atol=1e-5)

    def test_ranges_are_strict(self) -> None:
        boxes = LiDARInstance3DBoxes([[x, 0, 0, 1, 1, 1, 0] for x in (0, 0.1, 10, 11)])
        assert boxes.in_range_bev([0, -1, 10, 1]).tolist() == [False, True, False, False]
        assert boxes.in_range_bev([-1, -1, 20, 0]).tolist() == [False] * 4
        assert boxes.in_range_3d([0, -1, -1, 10, 1, 1]).tolist() == [False, True, False, False]
        assert boxes.in_range_3d(np.array([-1, -1, 0, 20, 1, 1.0])).tolist() == [False] * 4
        camera = CameraInstance3DBoxes([[0, 99, z, 1, 1, 1, 0] for z in (5, 50)])
        assert camera.in_range_bev([-1, 0, 1, 40]).tolist() == [True, False]

    def test_nonempty(self) -> None:
        boxes = LiDARInstance3DBoxes([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 1, 0]])
        assert boxes.nonempty().tolist() == [True, False]

    @EVERY_KIND
    def test_points_in_boxes_follow_the_boxes(self, kind: type[Boxes3D]) -> None:
        """Points drawn in LiDAR boxes and taken along into another frame are in the same boxes there."""
        lidar = some(count=6)
        rng = np.random.default_rng(0)
        spread = torch.from_numpy(rng.uniform(-2, 2, (6 * 80, 3)).astype(np.float32))
        points = lidar.gravity_center.repeat_interleave(80, dim=0) + spread
        expected = lidar.points_in_boxes(points)
        assert 40 < expected.sum() < 450
        there = lidar.convert_to(kind.mode)
        moved = points @ torch.tensor(kind.FROM_LIDAR, dtype=torch.float32).T
        assert_close(there.points_in_boxes(moved), expected)
        found = there.points_in_boxes(moved.numpy())
        assert isinstance(found, np.ndarray)
        assert_close(found, expected)

    @EVERY_KIND
    def test_overlaps_do_not_depend_on_the_frame(self, kind: type[Boxes3D]) -> None:
        lidar, other = some(count=8), some(count=8)
        other.translate((0.4, 0.3, 0.2))
        other.rotate(0.01)
        expected = LiDARInstance3DBoxes.overlaps(lidar, other)
        assert (expected.diagonal() > 0).sum() > 4
        a, b = lidar.convert_to(kind.mode), other.convert_to(kind.mode)
        assert_close(kind.overlaps(a, b), expected, atol=1e-4)
        iof = kind.overlaps(a, b, mode="iof")
        shared = iof * a.volume[:, None]
        assert_close(shared / (a.volume[:, None] + b.volume - shared), expected, atol=1e-4)

    def test_overlaps_of_different_frames_are_refused(self) -> None:
        with pytest.raises(TypeError, match="convert_to"):
            LiDARInstance3DBoxes.overlaps(some(), some(CameraInstance3DBoxes))


class TestAugmentation:
    def test_rotate_by_hand(self) -> None:
        boxes = LiDARInstance3DBoxes([[10, 0, 1, 4, 2, 1, 0.1, 3, 0]], box_dim=9)
        points = np.array([[10, 0, 1, 0.5]], np.float32)
        turned, matrix = boxes.rotate(math.pi / 2, points)
        assert_close(boxes.tensor, [[0, 10, 1, 4, 2, 1, 0.1 + math.pi / 2, 0, 3]], atol=1e-5)
        assert_close(turned, [[0, 10, 1, 0.5]], atol=1e-5)
        assert_close(points, [[10, 0, 1, 0.5]], name="the caller's points")
        assert_close(matrix, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-6)

    def test_rotate_camera_by_hand(self) -> None:
        """A positive angle adds to rotation_y, which is clockwise seen from above: what lay right comes nearer."""
        boxes = CameraInstance3DBoxes([[10, 1, 20, 4, 1.5, 2, 0.1]])
        assert boxes.rotate(math.pi / 2) is None
        assert_close(boxes.tensor, [[20, 1, -10, 4, 1.5, 2, 0.1 + math.pi / 2]], atol=1e-5)

    @EVERY_KIND
    @pytest.mark.parametrize("box_dim", [7, 9])
    def test_rotate_takes_points_corners_and_velocity_along(self, kind: type[Boxes3D], box_dim: int) -> None:
        boxes = some(kind, box_dim=box_dim)
        corners, velocity = boxes.corners.reshape(-1, 3), boxes.tensor[:, 7:]
        ahead = torch.zeros(len(boxes), 3)
        if box_dim == 9:
            ahead[:, list(kind.GROUND)] = velocity
        turned, matrix = boxes.rotate(0.6, corners)
        assert isinstance(turned, torch.Tensor)
        assert_close(boxes.corners.reshape(-1, 3), turned, atol=5e-5)
        assert_close(corners @ matrix, turned, atol=1e-5)
        assert_close(boxes.tensor[:, 7:], (ahead @ matrix)[:, list(kind.GROUND)][:, : box_dim - 7], atol=1e-5)

    @EVERY_KIND
    def test_rotate_by_a_matrix_is_rotate_by_its_angle(self, kind: type[Boxes3D]) -> None:
        one, two = some(kind, box_dim=9), some(kind, box_dim=9)
        for angle in (0.7, torch.tensor(0.7), np.float64(0.7)):
            _, matrix = one.rotate(angle, torch.zeros(1, 3))
            two.rotate(matrix)
            assert_close(two.tensor, one.tensor, atol=1e-4)
        with pytest.raises(ValueError, match="an angle or"):
            one.rotate(torch.zeros(2, 2))

    @EVERY_KIND
    def test_rotation_keeps_overlaps(self, kind: type[Boxes3D]) -> None:
        boxes, other = some(kind, count=12), some(kind, count=12)
        other.translate((0.2, 0.2, 0.2))
        before = kind.overlaps(boxes, other)
        boxes.rotate(1.234)
        other.rotate(1.234)
        assert_close(kind.overlaps(boxes, other), before, atol=1e-4)

    def test_flips_by_hand(self) -> None:
        rows = [[10, 5, 1, 4, 2, 1, 0.3, 3, 0.5]]
        left_right, front_back = (LiDARInstance3DBoxes(rows, box_dim=9) for _ in range(2))
        points = np.array([[1, 2, 3, 4]], np.float32)
        assert_close(left_right.flip("horizontal", points), [[1, -2, 3, 4]])
        assert_close(left_right.tensor, [[10, -5, 1, 4, 2, 1, -0.3, 3, -0.5]], atol=1e-6)
        assert_close(front_back.flip("vertical", torch.from_numpy(points)), [[-1, 2, 3, 4]])
        assert_close(front_back.tensor, [[-10, 5, 1, 4, 2, 1, math.pi - 0.3, -3, 0.5]], atol=1e-6)
        assert_close(points, [[1, 2, 3, 4]], name="the caller's points")
        with pytest.raises(ValueError, match="'diagonal'"):
            left_right.flip("diagonal")

    @EVERY_KIND
    @pytest.mark.parametrize("direction", ["horizontal", "vertical"])
    def test_flip_mirrors_the_solid(self, kind: type[Boxes3D], direction: str) -> None:
        boxes = some(kind)
        mirrored = boxes.flip(direction, boxes.corners.reshape(-1, 3)).reshape(-1, 8, 3)
        apart = torch.cdist(mirrored, boxes.corners).min(dim=2).values
        assert_close(apart, torch.zeros(len(boxes), 8), atol=2e-3)

    @EVERY_KIND
    @pytest.mark.parametrize("direction", ["horizontal", "vertical"])
    def test_two_flips_change_nothing(self, kind: type[Boxes3D], direction: str) -> None:
        boxes = some(kind, box_dim=9)
        before = boxes.tensor.clone()
        boxes.flip(direction)
        assert not torch.equal(boxes.tensor, before)
        boxes.flip(direction)
        boxes.limit_yaw()
        assert_close(boxes.tensor, before, atol=1e-6)

    def test_scale_and_translate(self) -> None:
        boxes = LiDARInstance3DBoxes([[10, 5, 1, 4, 2, 1, 0.3, 3, 0.5]], box_dim=9)
        boxes.scale(2)
        assert_close(boxes.tensor, [[20, 10, 2, 8, 4, 2, 0.3, 6, 1]], atol=1e-6)
        boxes.translate(np.array([1.0, 2, 3]))
        assert_close(boxes.tensor, [[21, 12, 5, 8, 4, 2, 0.3, 6, 1]], atol=1e-6)

    def test_limit_yaw(self) -> None:
        boxes = LiDARInstance3DBoxes([[0, 0, 0, 1, 1, 1, yaw] for yaw in (4.0, -4.0, 0.5)])
        boxes.limit_yaw()
        assert_close(boxes.yaw, [4 - 2 * math.pi, 2 * math.pi - 4, 0.5], atol=1e-6)
        boxes.limit_yaw(offset=0, period=math.pi)
        assert_close(boxes.yaw, [4 - math.pi, 2 * math.pi - 4, 0.5], atol=1e-6)

    @EVERY_KIND
    def test_no_boxes(self, kind: type[Boxes3D]) -> None:
        boxes = kind([])
        points, _ = boxes.rotate(0.5, np.ones((3, 4), np.float32))
        points = boxes.flip("horizontal", points)
        boxes.scale(1.1)
        boxes.translate((1, 2, 3))
        boxes.limit_yaw()
        assert points.shape == (3, 4)
        assert boxes.corners.shape == (0, 8, 3)
        assert boxes.points_in_boxes(points).shape == (3, 0)
        assert kind.overlaps(boxes, boxes).shape == (0, 0)
        assert len(boxes.convert_to("camera")) == 0


def tilted() -> np.ndarray:
    """A LiDAR to camera matrix with a shift and one or two degrees of tilt, as KITTI's."""
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], float)
    a, b = 0.02, -0.015
    pitch = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    roll = np.array([[math.cos(b), -math.sin(b), 0], [math.sin(b), math.cos(b), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = pitch @ roll @ axes
    matrix[:3, 3] = (-0.01, -0.07, -0.29)
    return matrix


class TestConversion:
    def test_lidar_to_camera_by_hand(self) -> None:
        boxes = LiDARInstance3DBoxes([[20, 3, -1.5, 4, 2, 1.6, 0.2, 5, 1]], box_dim=9)
        camera = boxes.convert_to("camera")
        assert isinstance(camera, CameraInstance3DBoxes)
        assert_close(camera.tensor, [[-3, 1.5, 20, 4, 1.6, 2, -0.2 - math.pi / 2, -1, 5]], atol=1e-6)
        depth = boxes.convert_to(Box3DMode.DEPTH)
        assert_close(depth.tensor, [[-3, 20, -1.5, 4, 2, 1.6, 0.2 + math.pi / 2, -1, 5]], atol=1e-6)

    @pytest.mark.parametrize("src", KINDS)
    @pytest.mark.parametrize("dst", KINDS)
    @pytest.mark.parametrize("box_dim", [7, 8, 9, 10])
    def test_there_and_back(self, src: type[Boxes3D], dst: type[Boxes3D], box_dim: int) -> None:
        boxes = some(src, box_dim=box_dim)
        there = boxes.convert_to(dst.mode)
        assert type(there) is dst
        assert there.box_dim == box_dim
        assert there.yaw.abs().max() <= math.pi
        assert_close(there.convert_to(src.mode).tensor, boxes.tensor, atol=1e-5)

    @pytest.mark.parametrize("dst", KINDS)
    def test_it_is_the_same_solid(self, dst: type[Boxes3D]) -> None:
        boxes = some()
        corners = boxes.corners @ torch.tensor(dst.FROM_LIDAR, dtype=torch.float32).T
        apart = torch.cdist(corners, boxes.convert_to(dst.mode).corners).min(dim=2).values
        assert_close(apart, torch.zeros(len(boxes), 8), atol=2e-3)

    @pytest.mark.parametrize("size", [(3, 3), (3, 4), (4, 4)])
    def test_matrix_sizes_and_kinds(self, size: tuple[int, int]) -> None:
        matrix = tilted()[: size[0], : size[1]]
        boxes = some()
        expected = boxes.tensor[:, :3].numpy() @ matrix[:3, :3].T + (matrix[:3, 3] if size[1] == 4 else 0)
        for given in (matrix, torch.from_numpy(matrix), matrix.tolist()):
            there = boxes.convert_to("camera", given)
            assert_close(there.center, expected, atol=1e-5)
            assert_close(there.yaw, boxes.convert_to("camera").yaw, name="a tilt leaves the yaw alone")
        with pytest.raises(ValueError, match="rt_mat"):
            boxes.convert_to("camera", np.eye(2))

    def test_corrected_yaw(self) -> None:
        """With a rotation about the vertical in the matrix the corrected yaw follows it; a tilt hardly changes it."""
        boxes = some(box_dim=9)
        turn = np.eye(4)
        turn[:2, :2] = [[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]]
        there = boxes.convert_to("lidar", turn, correct_yaw=True)
        boxes.rotate(0.5)
        boxes.limit_yaw()
        assert_close(there.tensor, boxes.tensor, atol=2e-5)
        for kind in ("camera", "depth"):
            axes = torch.tensor(BOX_TYPES[kind.capitalize()].FROM_LIDAR)
            plain = boxes.convert_to(kind)
            assert_close(boxes.convert_to(kind, axes, correct_yaw=True).tensor, plain.tensor, atol=1e-5)
            back = plain.convert_to("lidar", axes.T, correct_yaw=True)
            assert_close(back.tensor, boxes.tensor, atol=1e-5)

    def test_label_digits_survive_a_tilted_matrix(self) -> None:
        rng = np.random.default_rng(7)
        label = np.concatenate(
            (
                rng.uniform([-40, 0, 1], [40, 3, 80], (200, 3)),
                rng.uniform(0.3, 12, (200, 3)),
                rng.uniform(-3.14, 3.14, (200, 1)),
            ),
            axis=1,
        ).round(2)
        matrix = tilted()
        lidar = CameraInstance3DBoxes(label).convert_to("lidar", np.linalg.inv(matrix))
        assert_close(lidar.convert_to("camera", matrix).tensor, label, atol=1e-4)

    def test_names(self) -> None:
        assert get_box_type("LiDAR") == (LiDARInstance3DBoxes, Box3DMode.LIDAR)
        assert get_box_type("camera") == (CameraInstance3DBoxes, Box3DMode.CAM)
        assert get_box_type("Depth") == (DepthInstance3DBoxes, Box3DMode.DEPTH)
        with pytest.raises(InputError, match=r"'radar'.*'LiDAR'"):
            get_box_type("radar")
        with pytest.raises(InputError, match="'radar'"):
            some().convert_to("radar")


@needs_shared
class TestRealFrames:
    def read(self, frame: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels as camera rows [x, y, z, l, h, w, ry], and the matrix from LiDAR to camera."""
        root: Path = KITTI / "training"
        lines = [line.split() for line in (root / f"label_2/{frame}.txt").read_text().splitlines()]
        rows = [[float(line[i]) for i in (11, 12, 13, 10, 8, 9, 14)] for line in lines if line[0] != "DontCare"]
        calib = dict(line.split(":") for line in (root / f"calib/{frame}.txt").read_text().splitlines() if line.strip())
        rect, velo = np.eye(4), np.eye(4)
        rect[:3, :3] = np.array(calib["R0_rect"].split(), float).reshape(3, 3)
        velo[:3] = np.array(calib["Tr_velo_to_cam"].split(), float).reshape(3, 4)
        return np.array(rows), rect @ velo

    @pytest.mark.parametrize(("frame", "expected"), [("000000", [377]), ("000008", [1325, 1900, 881, 659, 55, 162])])
    def test_points_in_boxes(self, frame: str, expected: list[int]) -> None:
        rows, matrix = self.read(frame)
        boxes = CameraInstance3DBoxes(rows).convert_to("lidar", np.linalg.inv(matrix))
        points = np.fromfile(KITTI / f"training/velodyne/{frame}.bin", np.float32).reshape(-1, 4)
        assert boxes.points_in_boxes(points).sum(axis=0).tolist() == expected
        assert boxes.points_in_boxes(torch.from_numpy(points)).sum(dim=0).tolist() == expected

    @pytest.mark.parametrize("frame", ["000000", "000001", "000002", "000008", "000134"])
    def test_labels_come_back(self, frame: str) -> None:
        rows, matrix = self.read(frame)
        lidar = CameraInstance3DBoxes(rows).convert_to("lidar", np.linalg.inv(matrix))
        assert_close(lidar.convert_to("camera", matrix).tensor, rows, atol=1e-3)
        assert (lidar.tensor[:, 0] > 0).all(), "what a camera labels lies in front"
        assert lidar.tensor[:, 2].abs().max() < 3, "and stands on the ground"
