"""Transforms one by one, against closed forms and small cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raydet3d.data.transforms.augmentation import (
    GlobalRotScaleTrans,
    ObjectNameFilter,
    ObjectNoise,
    ObjectRangeFilter,
    PointShuffle,
    PointsRangeFilter,
    RandomFlip3D,
)
from raydet3d.errors import InputError
from raydet3d.ops.points import bev_corners, points_in_boxes
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.close import assert_close

BOXES = [[10.0, -3.0, -1.7, 4.0, 1.6, 1.5, 0.3], [20.0, 6.0, -1.7, 1.7, 0.6, 1.7, -2.0]]


def sample(points: object = ((1.0, 2.0, 3.0, 0.5), (-4.0, 5.0, -6.0, 0.25)), boxes: object = BOXES) -> dict:
    return {
        "points": np.array(points, dtype=np.float32).reshape(-1, 4),
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.tensor(boxes).reshape(-1, 7)),
        "gt_labels_3d": np.arange(len(boxes)),
    }


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(0)
    torch.manual_seed(0)


def relative(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Each point in its own box's frame: (K, 3); what no rigid motion of both changes."""
    offset = points[:, :3] - boxes[:, :3]
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    return np.stack([offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin, offset[:, 2]], 1)


def in_boxes() -> dict:
    """A sample with one point in each box."""
    offset = np.array([[0.5, 0.2, 0.7, 0.1], [-0.1, 0.1, 0.9, 0.2]])
    return sample(np.array(BOXES)[:, [0, 1, 2, 2]] * [1, 1, 1, 0] + offset)


# ---------------------------------------------------------------- flip


def test_a_horizontal_flip_negates_y_and_yaw() -> None:
    made = RandomFlip3D(flip_ratio_bev_horizontal=1.0)(sample())
    assert made["points"].tolist() == [[1, -2, 3, 0.5], [-4, -5, -6, 0.25]]
    assert_close(made["gt_bboxes_3d"].tensor, np.array(BOXES) * [1, -1, 1, 1, 1, 1, -1], atol=1e-6)
    assert made["pcd_horizontal_flip"]
    assert not made["pcd_vertical_flip"]
    assert made["transformation_3d_flow"] == ["HF"]


def test_a_vertical_flip_negates_x_and_turns_yaw_round() -> None:
    made = RandomFlip3D(flip_ratio_bev_vertical=1.0)(sample())
    assert made["points"].tolist() == [[-1, 2, 3, 0.5], [4, 5, -6, 0.25]]
    yaw = made["gt_bboxes_3d"].tensor[:, 6].numpy()
    assert np.cos(yaw - (np.pi - np.array([0.3, -2.0]))) == pytest.approx(1)
    assert made["transformation_3d_flow"] == ["VF"]


def test_flipping_twice_restores_points_and_boxes() -> None:
    flip = RandomFlip3D(flip_ratio_bev_horizontal=1.0)
    once = flip(in_boxes())
    assert (
        points_in_boxes(once["points"], once["gt_bboxes_3d"].tensor.numpy()).tolist() == np.eye(2, dtype=bool).tolist()
    )
    del once["pcd_horizontal_flip"]
    assert_close(flip(once)["points"], in_boxes()["points"])


def test_flips_are_drawn_at_their_rate_and_a_set_flip_is_kept() -> None:
    flip = RandomFlip3D(flip_ratio_bev_horizontal=0.3)
    rate = np.mean([flip({"points": np.zeros((1, 4), np.float32)})["pcd_horizontal_flip"] for _ in range(2000)])
    assert 0.26 < rate < 0.34
    made = RandomFlip3D(flip_ratio_bev_horizontal=1.0)({**sample(), "pcd_horizontal_flip": False})
    assert made["points"][0, 1] == 2
    # Both draws are made, whatever the ratios: what follows sees the same generator.
    np.random.seed(0)
    RandomFlip3D()(sample())
    after = np.random.rand()
    np.random.seed(0)
    np.random.rand(2)
    assert after == np.random.rand()


# ---------------------------------------------------------------- rotation, scale, translation


def test_a_quarter_turn_scaled_and_shifted() -> None:
    turn = GlobalRotScaleTrans([math.pi / 2, math.pi / 2], [2.0, 2.0], [0, 0, 0])
    made = turn(sample())
    assert_close(made["points"], [[-4, 2, 6, 0.5], [-10, -8, -12, 0.25]], atol=1e-5)
    boxes = made["gt_bboxes_3d"].tensor
    assert_close(boxes[0], [6, 20, -3.4, 8, 3.2, 3, 0.3 + math.pi / 2], atol=1e-5)
    assert made["pcd_scale_factor"] == 2
    assert made["pcd_rotation_angle"] == pytest.approx(math.pi / 2)
    # The stored matrix is the transposed one: row vectors times it turn counter-clockwise.
    assert_close(torch.tensor([1.0, 0, 0]) @ made["pcd_rotation"], [0, 1, 0], atol=1e-6)
    assert made["transformation_3d_flow"] == ["R", "S", "T"]


def test_points_stay_in_their_boxes() -> None:
    before = in_boxes()
    place = relative(before["points"], before["gt_bboxes_3d"].tensor.numpy())
    made = GlobalRotScaleTrans(0.78, [0.95, 1.05], [0.5, 0.5, 0.5])(before)
    boxes = made["gt_bboxes_3d"].tensor.numpy()
    assert_close(relative(made["points"], boxes), place * made["pcd_scale_factor"], atol=1e-4)
    assert made["points"][:, 3].tolist() == pytest.approx([0.1, 0.2])
    assert np.abs(made["pcd_trans"]).min() > 0


def test_random_draws_have_mmdet3ds_order() -> None:
    made = GlobalRotScaleTrans([-0.7, 0.7], [0.9, 1.1], [1, 1, 1])(sample())
    np.random.seed(0)
    assert made["pcd_rotation_angle"] == np.random.uniform(-0.7, 0.7)
    assert made["pcd_scale_factor"] == np.random.uniform(0.9, 1.1)
    assert (made["pcd_trans"] == np.random.normal(scale=[1, 1, 1], size=3)).all()
    assert GlobalRotScaleTrans()({**sample(), "pcd_scale_factor": 1.0})["pcd_scale_factor"] == 1.0


def test_identity_parameters_change_nothing() -> None:
    made = GlobalRotScaleTrans([0, 0], [1.0, 1.0], [0, 0, 0])({"points": sample()["points"]})
    assert (made["points"] == sample()["points"]).all()
    assert "gt_bboxes_3d" not in made


# ---------------------------------------------------------------- object noise


def crowd() -> np.ndarray:
    """Parked cars, wall to wall: 0.4 m between them."""
    grid = [(x, y) for x in range(0, 30, 5) for y in range(0, 10, 2)]
    return np.array([[x, y, -1.7, 4.0, 1.6, 1.5, 0.0] for x, y in grid])


def test_noise_moves_objects_with_their_points_and_never_into_each_other() -> None:
    boxes = crowd()
    points = np.column_stack([boxes[:, :2] + [0.5, 0.2], boxes[:, 2] + 0.7, np.arange(len(boxes))])
    made = ObjectNoise([1.0, 1.0, 0.5], [0.0, 0.0], [-0.785, 0.785])(sample(points, boxes.tolist()))
    after = made["gt_bboxes_3d"].tensor.numpy()
    moved = np.abs(after - boxes).max(1) > 0
    assert moved.mean() > 0.5
    from shapely.geometry import Polygon

    shapes = [Polygon(corner) for corner in bev_corners(after[:, [0, 1, 3, 4, 6]].astype(float))]
    assert not any(a.intersection(b).area > 1e-6 for i, a in enumerate(shapes) for b in shapes[:i])
    assert_close(relative(made["points"], after), np.tile([0.5, 0.2, 0.7], (len(boxes), 1)), atol=1e-4)
    assert (after[:, 3:6] == boxes[:, 3:6].astype(np.float32)).all()


def test_noise_keeps_other_points_and_blocked_objects() -> None:
    free = sample([[50, 0, 0, 1]], BOXES)
    assert ObjectNoise()(free)["points"].tolist() == [[50, 0, 0, 1]]
    # Every try of the only pair collides: both stay.
    pair = [[0.0, 0, 0, 4, 4, 2, 0], [1.0, 0, 0, 4, 4, 2, 0]]
    made = ObjectNoise([0.01, 0.01, 0.01], num_try=20)(sample([[0, 0, 1, 0]], pair))
    assert made["gt_bboxes_3d"].tensor.tolist() == pair
    assert made["points"].tolist() == [[0, 0, 1, 0]]
    nothing = sample([[0, 0, 1, 0]], [])
    assert len(ObjectNoise()(nothing)["gt_bboxes_3d"]) == 0


def test_a_point_in_two_objects_goes_with_the_first() -> None:
    pair = [[0.0, 0, 0, 2, 2, 2, 0], [1.0, 0, 0, 2, 2, 2, 0]]
    made = ObjectNoise([9.0, 9.0, 0.0], rot_range=[0, 0])(sample([[0.5, 0.5, 1, 0]], pair))
    moved = made["gt_bboxes_3d"].tensor.numpy() - np.array(pair)
    assert np.abs(moved[:, :2]).max(1).min() > 0.1
    assert_close(made["points"][0, :3] - [0.5, 0.5, 1], moved[0, :3], atol=1e-5)


def test_noise_takes_the_first_free_try_of_the_global_generator() -> None:
    made = ObjectNoise([1.0, 1.0, 0.5], [0.0, 0.0], [-0.785, 0.785], num_try=100)(sample())
    np.random.seed(0)
    shifts = np.random.normal(scale=[1, 1, 0.5], size=(2, 100, 3))
    turns = np.random.uniform(-0.785, 0.785, size=(2, 100))
    # The two are 13 m apart: the first try of each is free.
    wanted = np.array(BOXES)
    wanted[:, :3] += shifts[:, 0]
    wanted[:, 6] += turns[:, 0]
    assert_close(made["gt_bboxes_3d"].tensor, wanted, atol=1e-5)


# ---------------------------------------------------------------- filters and shuffle


def test_range_filters_are_strict() -> None:
    low, high = [0, -39.68, -3], [69.12, 39.68, 1]
    inside = [[1, 0, 0, 1], [69, 39, 0.9, 2]]
    outside = [[*low[:1], 0, 0, 3], [1, -39.68, 0, 4], [1, 0, -3, 5], [69.12, 0, 0, 6], [1, 0, 1, 7], [np.nan, 0, 0, 8]]
    made = PointsRangeFilter([*low, *high])({"points": np.array([*outside, *inside], np.float32)})
    assert made["points"].tolist() == np.array(inside, np.float32).tolist()
    boxes = [[0.0, 0, 0, 1, 1, 1, 0], [1, 0, 99, 1, 1, 1, 4.0], [5, 39.7, 0, 1, 1, 1, 0]]
    made = ObjectRangeFilter([*low, *high])(sample(boxes=boxes))
    assert made["gt_labels_3d"].tolist() == [1]
    assert made["gt_bboxes_3d"].tensor[0, 6].item() == pytest.approx(4 - 2 * math.pi)


def test_the_name_filter_drops_what_has_no_class() -> None:
    made = ObjectNameFilter(["Pedestrian"])(sample())
    assert made["gt_labels_3d"].tolist() == [0]
    assert_close(made["gt_bboxes_3d"].tensor, BOXES[:1], atol=1e-6)


def test_shuffle_permutes_whole_points() -> None:
    points = np.arange(400, dtype=np.float32).reshape(100, 4)
    made = PointShuffle()({"points": points, "pts_semantic_mask": np.arange(100)})
    assert (made["points"] != points).any()
    assert (np.sort(made["points"], axis=0) == points).all()
    assert (made["points"][:, 0] == made["pts_semantic_mask"] * 4).all()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).numpy()
    assert (made["pts_semantic_mask"] == order).all()


def test_empty_samples_pass() -> None:
    empty = sample([], [])
    for step in (
        RandomFlip3D(flip_ratio_bev_horizontal=1.0),
        GlobalRotScaleTrans(),
        ObjectNoise(),
        PointsRangeFilter([0, 0, 0, 1, 1, 1]),
        ObjectRangeFilter([0, 0, 0, 1, 1, 1]),
        ObjectNameFilter(["Car"]),
        PointShuffle(),
    ):
        empty = step(empty)
    assert empty["points"].shape == (0, 4)
    assert len(empty["gt_bboxes_3d"]) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomFlip3D(flip_ratio_bev_horizontal=50), r"must lie in \[0, 1\], got 50"),
        (lambda: GlobalRotScaleTrans(translation_std=[1, 2]), "translation_std must be a number or three"),
        (lambda: GlobalRotScaleTrans(rot_range=[1, 2, 3]), "rot_range must be a number or two"),
        (
            lambda: GlobalRotScaleTrans(scale_ratio_range=1.05),
            "scale_ratio_range must be two .* got 1.05",
        ),
        (lambda: GlobalRotScaleTrans(scale_ratio_range=[0, 1.05]), "scale_ratio_range must be two factors above 0"),
        (lambda: GlobalRotScaleTrans(shift_height=True), "shift_height"),
        (lambda: ObjectNoise(global_rot_range=[0, 1]), "global_rot_range"),
        (lambda: ObjectNoise(num_try=0), "num_try"),
        (lambda: PointsRangeFilter([0, 0, 0, 1, 1]), "PointsRangeFilter: point_cloud_range"),
        (lambda: ObjectRangeFilter([0, 0, 5, 1, 1, 1]), "ObjectRangeFilter: point_cloud_range"),
    ],
)
def test_bad_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_velocities_turn_flip_and_scale_with_their_boxes() -> None:
    """A box and the place where it is a second later stay so under every transform of the scene."""
    now = np.array([[10.0, -3.0, -1.7, 4.0, 1.6, 1.5, 0.3, 2.0, -1.0], [20.0, 6.0, -1.7, 1.7, 0.6, 1.7, -2, 0, 3]])
    later = now.copy()
    later[:, :2] += now[:, 7:]
    steps = [
        GlobalRotScaleTrans(rot_range=[0.7, 0.8], scale_ratio_range=[1.1, 1.2], translation_std=[1, 1, 1]),
        RandomFlip3D(flip_ratio_bev_horizontal=1.0),
        RandomFlip3D(flip_ratio_bev_vertical=1.0),
        ObjectRangeFilter([-60, -60, -5, 60, 60, 5]),
        ObjectNameFilter(["car", "bus", "truck", "tram"]),
    ]
    data = {
        "points": np.zeros((1, 4), np.float32),
        "gt_bboxes_3d": LiDARInstance3DBoxes(np.concatenate([now, later]), box_dim=9),
        "gt_labels_3d": np.arange(4),
    }
    for step in steps:
        for key in ("pcd_horizontal_flip", "pcd_vertical_flip"):
            data.pop(key, None)
        data = step.transform(data)
        boxes = data["gt_bboxes_3d"].tensor.numpy()
        assert_close(boxes[:2, :2] + boxes[:2, 7:], boxes[2:, :2], atol=1e-4)
        # The heading turns like the velocity: their angle changes its sign only when mirrored.
        angle = np.arctan2(boxes[:, 8], boxes[:, 7]) - boxes[:, 6]
        before = np.arctan2(now[:, 8], now[:, 7]) - now[:, 6]
        assert_close(np.cos(angle), np.cos([*before, *before]), atol=1e-5)
