"""Suppression by MMDetection3D's names: the results of `raydet3d.ops.nms`."""

import torch

from raydet3d.models.layers.bev_nms import (
    box3d_multiclass_nms,
    boxes_iou3d,
    circle_nms,
    nms3d,
    nms3d_normal,
    nms_bev,
    nms_normal_bev,
)

BOXES = torch.tensor([[0.0, 0, 4, 2, 0], [0.5, 0, 4.5, 2, 0], [10, 10, 14, 12, 0.3]])
SCORES = torch.tensor([0.5, 0.9, 0.7])


def test_boxes_are_corners_and_yaw():
    assert nms_bev(BOXES, SCORES, 0.2).tolist() == [1, 2]
    assert nms_bev(BOXES, SCORES, 0.2, pre_max_size=3, post_max_size=1).tolist() == [1]
    assert nms_normal_bev(BOXES, SCORES, 0.9).tolist() == [1, 2, 0]


def test_circles_compare_the_squared_distance():
    dets = torch.tensor([[0.0, 0, 0.9], [1.9, 0, 0.8], [2.1, 0, 0.7]])
    assert circle_nms(dets, 4.0) == [0, 2]
    assert circle_nms(dets, 4.0, post_max_size=1) == [0]


def test_class_by_class_with_further_columns():
    scores = torch.tensor([[0.9, 0.0, 0.1], [0.8, 0.6, 0.1], [0.05, 0.7, 0.1]])
    boxes, best, labels, directions = box3d_multiclass_nms(
        BOXES, BOXES, scores, 0.1, 10, {"nms_thr": 0.2, "use_rotate_nms": True}, torch.tensor([0, 1, 1])
    )
    assert labels.tolist() == [0, 1, 1]
    assert directions.tolist() == [0, 1, 1]
    torch.testing.assert_close(best, torch.tensor([0.9, 0.7, 0.6]))
    assert torch.equal(boxes, BOXES[[0, 2, 1]])


def test_3d_boxes_are_centres_sizes_and_yaws():
    boxes = torch.tensor([[2.0, 1, 0, 4, 2, 2, 0], [2.5, 1, 9, 4, 2, 2, 0], [12, 11, 0, 4, 2, 2, 0.3]])
    assert nms3d(boxes, SCORES, 0.2).tolist() == nms_bev(BOXES, SCORES, 0.2).tolist() == [1, 2]
    assert nms3d_normal(boxes, SCORES, 0.9).tolist() == [1, 2, 0]
    lifted = boxes[:1] + torch.tensor([0, 0, 1.0, 0, 0, 0, 0])
    torch.testing.assert_close(boxes_iou3d(boxes[:1], lifted), torch.tensor([[1 / 3]]))
    taller = boxes[:1] + torch.tensor([0, 0, 0, 0, 0, 2.0, 0])
    torch.testing.assert_close(boxes_iou3d(boxes[:1], taller), torch.tensor([[0.5]]))
