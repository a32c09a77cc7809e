"""Scatter: each pillar at its own cell of its own frame, nothing elsewhere."""

import torch

from raydet3d.registry import MODELS

SCATTER = {"type": "PointPillarsScatter", "in_channels": 3, "output_shape": [4, 5]}


def test_puts_pillars_where_they_belong():
    features = torch.arange(1.0, 10).view(3, 3).requires_grad_()
    coors = torch.tensor([[0, 0, 1, 4], [0, 0, 3, 0], [2, 0, 0, 2]], dtype=torch.int32)
    canvas = MODELS.build(SCATTER)(features, coors, 3)
    assert canvas.shape == (3, 3, 4, 5)
    assert canvas[0, :, 1, 4].tolist() == [1, 2, 3]
    assert canvas[0, :, 3, 0].tolist() == [4, 5, 6]
    assert canvas[2, :, 0, 2].tolist() == [7, 8, 9]
    assert canvas.count_nonzero() == 9
    assert canvas.is_contiguous(memory_format=torch.channels_last)
    (canvas * 2).sum().backward()
    assert features.grad.unique().tolist() == [2]


def test_frames_without_pillars_at_the_end():
    canvas = MODELS.build(SCATTER)(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32), 2)
    assert canvas.shape == (2, 3, 4, 5)
    assert canvas.abs().max() == 0
