"""`CenterPointBBoxCoder`: boxes from maps, by hand."""

import math

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import TASK_UTILS

CFG = {
    "type": "CenterPointBBoxCoder",
    "pc_range": [-10.0, -20.0],
    "out_size_factor": 4,
    "voxel_size": [0.2, 0.5],
    "post_center_range": [-100, -100, -10, 100, 100, 10],
    "max_num": 3,
    "score_threshold": 0.1,
    "code_size": 9,
}


def maps(classes=2, height=4, width=5):
    return {
        "heat": torch.zeros(1, classes, height, width),
        "rot_sine": torch.zeros(1, 1, height, width),
        "rot_cosine": torch.ones(1, 1, height, width),
        "hei": torch.zeros(1, 1, height, width),
        "dim": torch.ones(1, 3, height, width),
        "vel": torch.zeros(1, 2, height, width),
        "reg": torch.zeros(1, 2, height, width),
    }


def test_boxes_of_the_highest_cells():
    given = maps()
    given["heat"][0, 1, 2, 3] = 0.9
    given["heat"][0, 0, 0, 4] = 0.5
    given["heat"][0, 0, 1, 1] = 0.05  # below the threshold
    given["reg"][0, :, 2, 3] = torch.tensor([0.25, 0.75])
    given["hei"][0, 0, 2, 3] = -1.0
    given["dim"][0, :, 2, 3] = torch.tensor([4.0, 2.0, 1.5])
    given["rot_sine"][0, 0, 2, 3], given["rot_cosine"][0, 0, 2, 3] = 1.0, 0.0
    given["vel"][0, :, 2, 3] = torch.tensor([3.0, -1.0])
    (found,) = TASK_UTILS.build(CFG).decode(**given)
    assert found["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert found["labels"].tolist() == [1, 0]
    x, y = (3 + 0.25) * 4 * 0.2 - 10, (2 + 0.75) * 4 * 0.5 - 20
    assert found["bboxes"][0].tolist() == pytest.approx([x, y, -1, 4, 2, 1.5, math.pi / 2, 3, -1], abs=1e-5)


def test_without_velocity_and_offset_boxes_have_seven_numbers_at_the_middle_of_their_cell():
    given = {**maps(), "vel": None, "reg": None}
    given["heat"][0, 0, 1, 2] = 0.9
    (found,) = TASK_UTILS.build({**CFG, "code_size": 7}).decode(**given)
    assert found["bboxes"].shape == (1, 7)
    assert found["bboxes"][0, :2].tolist() == pytest.approx([2.5 * 0.8 - 10, 1.5 * 2 - 20], abs=1e-5)


def test_centres_out_of_range_are_dropped():
    given = maps()
    given["heat"][0, 0, 1, 2] = 0.9
    given["hei"] += 20
    (found,) = TASK_UTILS.build(CFG).decode(**given)
    assert found["bboxes"].shape == (0, 9)
    (found,) = TASK_UTILS.build({**CFG, "post_center_range": None}).decode(**given)
    assert found["bboxes"].shape == (1, 9)


def test_maps_with_fewer_cells_than_max_num():
    given = maps(height=1, width=2)
    given["heat"] += 0.5
    (found,) = TASK_UTILS.build({**CFG, "max_num": 500}).decode(**given)
    assert len(found["scores"]) == 2


def test_a_range_of_four_numbers_is_refused():
    with pytest.raises(InputError, match="post_center_range"):
        TASK_UTILS.build({**CFG, "post_center_range": [0, 0, 1, 1]})
