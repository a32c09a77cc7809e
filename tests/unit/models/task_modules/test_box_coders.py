"""Box coder: hand-worked numbers, and decoding what was encoded."""

import math

import pytest
import torch

from raydet3d.models.task_modules.box_coders import DeltaXYZWLHRBBoxCoder


def test_by_hand():
    """Anchor 3 x 4 x 2 (diagonal 5), bottom at 0; box twice as high: its middle is at 2 + 1, the anchor's at 1."""
    anchor = torch.tensor([[10.0, 20.0, 0.0, 3.0, 4.0, 2.0, 0.1]])
    box = torch.tensor([[11.0, 18.0, 1.0, 6.0, 4.0, 4.0, 0.4]])
    wanted = [1 / 5, -2 / 5, (3 - 1) / 2, math.log(2), 0.0, math.log(2), 0.3]
    assert DeltaXYZWLHRBBoxCoder.encode(anchor, box)[0].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("numbers", [7, 9])
def test_decode_undoes_encode(numbers):
    torch.manual_seed(0)
    coder = DeltaXYZWLHRBBoxCoder(code_size=numbers)
    anchors = torch.randn(50, numbers, dtype=torch.float64)
    boxes = torch.randn(50, numbers, dtype=torch.float64)
    anchors[:, 3:6] = anchors[:, 3:6].abs() + 0.1
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.1
    torch.testing.assert_close(coder.decode(anchors, coder.encode(anchors, boxes)), boxes, rtol=0, atol=1e-12)


def test_no_boxes():
    assert DeltaXYZWLHRBBoxCoder.encode(torch.zeros(0, 7), torch.zeros(0, 7)).shape == (0, 7)
