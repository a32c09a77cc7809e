"""Mean and maximum of the points of each voxel against loops."""

import torch

from raydet3d.ops.voxel_scatter import VoxelGroups


def test_mean_and_maximum():
    torch.manual_seed(0)
    coors = torch.randint(0, 3, (200, 4), dtype=torch.int32)
    features = torch.randn(200, 5, dtype=torch.float64)
    groups = VoxelGroups.from_points(coors)
    rows = sorted({tuple(row) for row in coors.tolist()})
    assert [tuple(row) for row in groups.coors.tolist()] == rows
    assert groups.coors.dtype == torch.int32
    for i, row in enumerate(rows):
        own = features[(coors == torch.tensor(row)).all(1)]
        torch.testing.assert_close(groups.mean(features)[i], own.mean(0))
        torch.testing.assert_close(groups.max(features)[i], own.amax(0))
        assert groups.counts[i] == len(own)
    assert torch.equal(groups.coors[groups.voxel], coors)


def test_gradients():
    torch.manual_seed(0)
    groups = VoxelGroups.from_points(torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0]]))
    features = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(groups.mean, features)
    assert torch.autograd.gradcheck(groups.max, features)


def test_no_points():
    groups = VoxelGroups.from_points(torch.zeros(0, 4, dtype=torch.int32))
    assert groups.coors.shape == (0, 4)
    assert groups.mean(torch.zeros(0, 3)).shape == groups.max(torch.zeros(0, 3)).shape == (0, 3)
