"""`AnchorGrid`: IoU in windows against comparing every anchor with every box."""

import torch

from raydet3d.ops import AnchorGrid, aligned_iou, nearest_bev


def anchors_of(height, width, cell=0.32, size=(3.9, 1.6, 1.56)):
    anchors = torch.zeros(height, width, 2, 7)
    anchors[..., 0] = ((torch.arange(width) + 0.5) * cell)[None, :, None]
    anchors[..., 1] = ((torch.arange(height) + 0.5 - height / 2) * cell)[:, None, None]
    anchors[..., 3:6] = torch.tensor(size)
    anchors[..., 1, 6] = 1.57
    return anchors


def test_windows_contain_every_overlap_with_the_same_bits():
    anchors = anchors_of(24, 30)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(20, 7, generator=generator) * torch.tensor([14.0, 12, 0, 3, 2, 1, 6]) + 0.3
    boxes[:, 1] -= 6
    expected = aligned_iou(nearest_bev(boxes), nearest_bev(anchors.flatten(0, 2)))
    grid = AnchorGrid.from_anchors(anchors)
    value, index = grid.iou(nearest_bev(boxes))
    table = torch.zeros_like(expected).scatter_reduce_(1, index, value, "amax")
    assert torch.equal(table, expected)
    assert grid.num_anchors == len(anchors.flatten(0, 2))


def test_anchors_off_the_grid_give_none():
    anchors = anchors_of(4, 5)
    assert AnchorGrid.from_anchors(anchors) is not None
    anchors[1, 2, 0, 0] += 0.1
    assert AnchorGrid.from_anchors(anchors) is None
