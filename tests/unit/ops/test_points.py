import doctest
import math

import numpy as np
import pytest
import torch

from raydet3d.ops import bev_corners, box_corners, limit_period, points, points_in_boxes, rotate_z
from tests.kit.close import assert_close

BOTH = pytest.mark.parametrize("make", [np.array, torch.tensor], ids=["numpy", "torch"])


@pytest.mark.parametrize("module", ["points", "iou", "voxelize"])
def test_examples_in_docstrings(module: str) -> None:
    import importlib

    found = importlib.import_module(f"raydet3d.ops.{module}")
    result = doctest.testmod(found, extraglobs={"math": math, "np": np, "torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


class TestLimitPeriod:
    @BOTH
    def test_half_open_interval(self, make) -> None:
        angles = make([0.0, math.pi, -math.pi, 3 * math.pi / 2, 7.0, -7.0, 100 * math.pi + 0.25])
        limited = limit_period(angles)
        assert type(limited) is type(angles)
        expected = [0.0, -math.pi, -math.pi, -math.pi / 2, 7 - 2 * math.pi, 2 * math.pi - 7, 0.25]
        assert_close(limited, expected, atol=2e-5)

    def test_direction_bins_offset_zero_period_pi(self) -> None:
        # detection.md 2.1: v - floor(v / p + o) * p with o = 0, p = pi lies in [0, pi).
        values = np.linspace(-9, 9, 181)
        limited = limit_period(values, 0.0, math.pi)
        assert limited.min() >= 0
        assert limited.max() < math.pi
        assert_close(np.sin(2 * limited), np.sin(2 * values), atol=1e-12)

    def test_float32_stays_float32(self) -> None:
        assert limit_period(np.float32([4.0])).dtype == np.float32
        assert limit_period(torch.tensor([4.0])).dtype == torch.float32


class TestRotateZ:
    @BOTH
    def test_quarter_turn_takes_front_to_left(self, make) -> None:
        before = make([[1.0, 0.0, 2.0, 9.0], [0.0, 3.0, -1.0, 8.0]])
        turned = rotate_z(before, math.pi / 2)
        assert_close(turned, [[0, 1, 2, 9], [-3, 0, -1, 8]], atol=1e-6)
        assert_close(before, [[1, 0, 2, 9], [0, 3, -1, 8]], name="the input is left alone")

    @BOTH
    def test_an_angle_for_each_group_and_only_two_columns(self, make) -> None:
        groups = make([[[1.0, 0.0]], [[1.0, 0.0]]])
        turned = rotate_z(groups, make([[0.0], [math.pi]]))
        assert_close(turned, [[[1, 0]], [[-1, 0]]], atol=1e-6)

    @BOTH
    def test_one_point_by_many_angles(self, make) -> None:
        turned = rotate_z(make([1.0, 0.0, 7.0]), make([0.0, math.pi / 2, math.pi]))
        assert_close(turned, [[1, 0, 7], [0, 1, 7], [-1, 0, 7]], atol=1e-6)


class TestCorners:
    @BOTH
    def test_upright_box(self, make) -> None:
        corners = box_corners(make([[10.0, 20.0, 30.0, 4.0, 2.0, 1.0, 0.0]]))
        expected = [
            [8, 19, 30], [8, 19, 31], [8, 21, 31], [8, 21, 30],
            [12, 19, 30], [12, 19, 31], [12, 21, 31], [12, 21, 30],
        ]  # fmt: skip
        assert_close(corners[0], expected, atol=1e-6)

    @BOTH
    def test_heading_left_puts_the_front_at_plus_y(self, make) -> None:
        corners = box_corners(make([[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, math.pi / 2]]))
        assert_close(corners[0, 4], [1, 2, 0], atol=1e-6)
        assert_close(corners[0, 7], [-1, 2, 0], atol=1e-6)

    @BOTH
    def test_bev_is_counter_clockwise_and_has_the_area(self, make) -> None:
        corners = np.asarray(bev_corners(make([[3.0, -2.0, 4.0, 2.0, 0.7]])))[0]
        x, y = corners.T
        area = 0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
        assert area == pytest.approx(8.0, abs=1e-5)
        assert_close(corners.mean(axis=0), [3, -2], atol=1e-6)

    @BOTH
    def test_no_boxes(self, make) -> None:
        none = make(np.zeros((0, 7)).tolist()).reshape(0, 7)
        assert box_corners(none).shape == (0, 8, 3)
        assert bev_corners(none[:, :5]).shape == (0, 4, 2)


def one_by_one(cloud: np.ndarray, boxes: np.ndarray, closed: bool) -> np.ndarray:
    """Each point against each box, in plain arithmetic."""
    inside = np.zeros((len(cloud), len(boxes)), dtype=bool)
    for k, (x, y, z, dx, dy, dz, yaw) in enumerate(boxes[:, :7].tolist()):
        for n, (px, py, pz) in enumerate(cloud[:, :3].tolist()):
            along = (px - x) * math.cos(-yaw) - (py - y) * math.sin(-yaw)
            across = (px - x) * math.sin(-yaw) + (py - y) * math.cos(-yaw)
            on_height = z <= pz <= z + dz if closed else z < pz < z + dz
            inside[n, k] = abs(along) < dx / 2 and abs(across) < dy / 2 and on_height
    return inside


WAYS = {
    "numpy": lambda cloud, boxes, closed: points_in_boxes(cloud, boxes, closed=closed),
    "torch": lambda cloud, boxes, closed: points_in_boxes(
        torch.from_numpy(cloud), torch.from_numpy(boxes), closed=closed
    ).numpy(),
    "dense": lambda cloud, boxes, closed: points._points_in_boxes_dense(
        torch.from_numpy(cloud), torch.from_numpy(boxes), closed
    ).numpy(),
}


@pytest.mark.parametrize("way", WAYS)
class TestPointsInBoxes:
    @pytest.mark.parametrize("closed", [False, True])
    def test_against_one_by_one(self, way: str, closed: bool) -> None:
        rng = np.random.default_rng(3)
        cloud = rng.uniform([-6, -6, -2, 0], [6, 6, 2, 1], (1500, 4))
        boxes = np.concatenate(
            (rng.uniform([-6, -6, -2], [6, 6, 0], (12, 3)), rng.uniform(0.5, 6, (12, 3)), rng.uniform(-7, 7, (12, 1))),
            axis=1,
        )
        expected = one_by_one(cloud, boxes, closed)
        assert 150 < expected.sum() < 9000
        assert_close(WAYS[way](cloud, boxes, closed), expected)

    def test_faces_are_outside(self, way: str) -> None:
        boxes = np.array([[0, 0, 0, 4, 2, 1, 0]], np.float32)
        on_faces = np.array(
            [[2, 0, 0.5], [-2, 0, 0.5], [0, 1, 0.5], [0, -1, 0.5], [0, 0, 0], [0, 0, 1], [0, 0, 0.5]], np.float32
        )
        assert WAYS[way](on_faces, boxes, False)[:, 0].tolist() == [False] * 6 + [True]
        assert WAYS[way](on_faces, boxes, True)[:, 0].tolist() == [False] * 4 + [True] * 3

    def test_far_away_in_float32(self, way: str) -> None:
        """Corners of a box at 70 m, drawn in by a millimetre, are inside; pushed out by one, outside."""
        boxes = np.array([[70.3, -39.1, -1.7, 3.9, 1.6, 1.5, yaw] for yaw in np.linspace(-3, 3, 25)], np.float32)
        for change, expected in ((-0.002, True), (0.002, False)):
            other = boxes.copy()
            other[:, 3:6] += change
            other[:, 2] -= change / 2
            corners = box_corners(other)
            inside = np.stack([WAYS[way](corners[k], boxes[k : k + 1], False)[:, 0] for k in range(len(boxes))])
            assert inside.all() if expected else not inside.any()

    def test_nothing_there(self, way: str) -> None:
        cloud, boxes = np.zeros((3, 4), np.float32), np.zeros((2, 7), np.float32)
        assert WAYS[way](cloud[:0], boxes, False).shape == (0, 2)
        assert WAYS[way](cloud, boxes[:0], False).shape == (3, 0)
        assert not WAYS[way](cloud, boxes, False).any(), "a box without size holds nothing, not even its centre"

    def test_not_finite_is_outside(self, way: str) -> None:
        boxes = np.array([[0, 0, 0, 4, 2, 1, 0], [np.nan, 0, 0, 1, 1, 1, 0]], np.float32)
        cloud = np.array([[np.nan, 0, 0.5], [np.inf, 0, 0.5], [0, 0, 0.5]], np.float32)
        assert WAYS[way](cloud, boxes, False).tolist() == [[False, False], [False, False], [True, False]]
