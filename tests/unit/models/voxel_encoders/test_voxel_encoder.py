"""`HardSimpleVFE`: means worked out by hand."""

import torch

from raydet3d.registry import MODELS


def test_mean_of_the_points_without_empty_slots():
    voxels = torch.tensor(
        [[[1.0, 2, 3, 4, 9], [3, 2, 1, 0, 9], [0, 0, 0, 0, 0]], [[5.0, 5, 5, 5, 9], [0] * 5, [0] * 5]]
    )
    encoder = MODELS.build({"type": "HardSimpleVFE"})
    out = encoder(voxels, torch.tensor([2, 1], dtype=torch.int32), torch.zeros(2, 4))
    assert out.tolist() == [[2, 2, 2, 2], [5, 5, 5, 5]]
    assert not encoder.state_dict()
