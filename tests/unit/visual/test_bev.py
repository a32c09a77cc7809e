"""The bird's-eye view: what stands at which pixel, worked out from metres."""

import math

import numpy as np
import pytest

from raydet3d.visual.bev import (
    BACKGROUND,
    GROUND_TRUTH_COLOR,
    PALETTE,
    BoxSet,
    View,
    draw_bev,
    find_view,
    height_colors,
)

VIEW = View(x=(0.0, 40.0), y=(-20.0, 20.0), scale=10.0)
NOTHING = np.zeros((0, 4))


def box(x, y, dx=8.0, dy=4.0, yaw=0.0):
    return [x, y, -1.0, dx, dy, 2.0, yaw]


def box_set(*boxes, labels=None, scores=None):
    return BoxSet(
        np.array(boxes, float).reshape(-1, 7),
        np.array(labels if labels is not None else [0] * len(boxes)),
        None if scores is None else np.array(scores),
    )


def ground(picture, view=VIEW):
    """The picture without its header."""
    return picture[-view.size[1] :]


def near(picture, x, y, color, *, reach=2):
    """Whether a colour is found at a place in metres, within some pixels."""
    column, row = VIEW.pixels(np.array([x, y])).astype(int)
    part = picture[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1].astype(int)
    return bool((np.abs(part - color).sum(-1) < 60).any())


def test_forward_is_up_and_left_is_left():
    assert VIEW.size == (400, 400)
    assert VIEW.pixels(np.array([[40.0, 20.0], [0.0, -20.0], [30.0, 5.0]])).tolist() == [[0, 0], [400, 400], [150, 100]]


def test_points_are_coloured_by_height():
    points = np.array([[30.0, 5.0, -2.0], [10.0, -5.0, 3.0], [20.05, 0.05, np.nan], [90.0, 0.0, 0.0]])
    picture = ground(draw_bev(points, box_set(), box_set(), view=VIEW))
    low, high = picture[100, 150], picture[300, 250]
    assert low.tolist() == height_colors(np.array([-2.0]), (-2, 3))[0].tolist()
    assert high.sum() > low.sum() > 150
    assert picture[105, 155].tolist() == list(BACKGROUND)


def test_high_points_lie_over_low_ones():
    points = np.array([[30.0, 5.0, 3.0], [30.0, 5.0, -2.0], [10.0, 5.0, -2.0], [5.0, 5.0, 3.0]])
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        picture = ground(draw_bev(points[order], box_set(), box_set(), view=VIEW))
        assert (picture[100, 150] == picture[350, 150]).all()


def test_boxes_have_outlines_and_a_tick_ahead():
    truth, found = box_set(box(30, 10)), box_set(box(12, -8, yaw=math.pi / 2), labels=[2], scores=[0.9])
    picture = ground(draw_bev(NOTHING, truth, found, view=VIEW))
    for x, y in ((34, 10), (26, 10), (30, 12), (30, 8), (34, 12)):  # faces and a corner
        assert near(picture, x, y, GROUND_TRUTH_COLOR), (x, y)
    assert near(picture, 34.5, 10, GROUND_TRUTH_COLOR)  # ahead of the front
    assert not near(picture, 25.4, 10, GROUND_TRUTH_COLOR)
    for x, y in ((12, -4), (12, -12), (14, -8), (10, -8), (12, -3.5)):  # turned to the left
        assert near(picture, x, y, PALETTE[2]), (x, y)
    assert not near(picture, 12, -12.4, PALETTE[2], reach=1)
    assert not near(picture, 12, -8, GROUND_TRUTH_COLOR, reach=30)


def test_ground_truth_is_filled_and_drawn_below_predictions():
    picture = ground(draw_bev(NOTHING, box_set(box(20, 0)), box_set(box(20, 0), labels=[1], scores=[0.5]), view=VIEW))
    assert near(picture, 24, 1, PALETTE[1])
    inside = picture[215, 215].astype(int)
    assert inside[1] > BACKGROUND[1] + 15 > inside[0]


def test_scores_stand_beside_their_boxes():
    without = draw_bev(NOTHING, box_set(), BoxSet(np.array([box(20, 0)]), np.array([0]), None), view=VIEW)
    with_score = draw_bev(NOTHING, box_set(), box_set(box(20, 0), scores=[0.87]), view=VIEW)
    right = np.s_[190:210, 224:270]  # just right of the box's right side, y = -2
    assert (ground(with_score)[right] == PALETTE[0]).all(-1).any()
    assert not (ground(without)[right] == PALETTE[0]).all(-1).any()


def test_many_scores_do_not_cover_one_another():
    boxes = [box(5 + 3 * i, -9 + 6 * j, dx=2, dy=1) for i in range(11) for j in range(4)]
    picture = draw_bev(NOTHING, box_set(), box_set(*boxes, scores=np.linspace(0.3, 0.99, 44)), view=VIEW)
    assert picture.shape[1] == 400


def test_a_view_holds_points_and_boxes_but_not_the_farthest_strays():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform([0, -30, -2], [60, 30, 1], (5000, 3)), [[900.0, 900.0, 0]]])
    view = find_view(points, np.array([box(70, 0)]))
    assert view.x[0] <= 0
    assert 74 <= view.x[1] <= 80
    assert -34 <= view.y[0] <= -29
    assert max(view.size) <= 1201


def test_boxes_and_points_of_any_size_leave_a_view():
    points = np.array([[10.0, 0, 0], [np.nan, 0, 0], [np.inf, 5, 0], [12.0, 4, 0]])
    for size in (2e9, 1e30):
        boxes = box_set(box(20, 0, dx=size), scores=[0.9])
        view = find_view(points, boxes.boxes)
        assert view.x[0] > -1000
        assert view.x[1] < 1000
        assert draw_bev(points, box_set(), boxes, view=view).shape[1] <= 1201


def test_views_of_few_or_no_points():
    for points, boxes in ((NOTHING, np.zeros((0, 7))), (np.array([[50.0, 3.0, 0.0]]), np.zeros((0, 7)))):
        view = find_view(points, boxes)
        assert min(view.size) > 50
        assert view.scale <= 28
        assert draw_bev(points, box_set(), box_set(scores=[]), view=view).dtype == np.uint8


def test_a_given_range_overrides_the_data():
    for limits in ([0, -40, 70, 40], [0, -40, -3, 70, 40, 1]):
        view = find_view(np.array([[500.0, 0, 0]]), np.zeros((0, 7)), limits=limits, pixels=800)
        assert (view.x, view.y, view.scale) == ((0, 70), (-40, 40), 10)


@pytest.mark.parametrize("width", [12, 40, 120])
def test_long_titles_and_many_classes_fit(width):
    view = View(x=(0.0, 10.0), y=(0.0, float(width)), scale=10.0)
    found = box_set(box(5, 5), box(5, 9), labels=[14, 3], scores=[0.5, 0.6])
    picture = draw_bev(
        NOTHING, box_set(), found, view=view, classes=[f"class{i}" for i in range(9)], title="long " * 40
    )
    assert picture.shape[1] == 10 * width
    assert picture.shape[0] > 140
