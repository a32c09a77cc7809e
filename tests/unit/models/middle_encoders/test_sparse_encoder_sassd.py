"""`SparseEncoderSASSD`: interpolation against brute force, targets by hand, gradients of the auxiliary losses."""

from __future__ import annotations

import torch

from raydet3d.models.middle_encoders.sparse_encoder import SparseEncoder
from raydet3d.models.middle_encoders.sparse_encoder_sassd import SparseEncoderSASSD
from raydet3d.structures import LiDARInstance3DBoxes

RANGE, VOXEL = (0.0, -4.0, -3.0), (0.25, 0.25, 0.2)


def encoder() -> SparseEncoderSASSD:
    torch.manual_seed(0)
    return SparseEncoderSASSD(4, [41, 32, 32], point_cloud_range=RANGE, voxel_size=VOXEL)


def voxels(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw distinct voxels of two frames, with a point at the centre of each."""
    generator = torch.Generator().manual_seed(1)
    cells = torch.randperm(2 * 20 * 32 * 32, generator=generator)[:count]
    coors = torch.stack((cells // 20480, cells // 1024 % 20, cells // 32 % 32, cells % 32), dim=1)
    xyz = (coors[:, [3, 2, 1]] + 0.5) * torch.tensor(VOXEL) + torch.tensor(RANGE)
    return torch.cat((xyz, torch.rand(count, 1, generator=generator)), dim=1), coors.int()


def test_the_map_is_that_of_the_plain_encoder_and_test_mode_leaves_the_points_out() -> None:
    net = encoder().eval()
    features, coors = voxels()
    encoded, misc = net(features, coors, 2)
    alone, nothing = net(features, coors, 2, test_mode=True)
    assert nothing is None
    assert misc is not None
    assert torch.equal(encoded, alone)
    assert [tuple(one.shape) for one in misc] == [(60, 4), (60, 1), (60, 3)]


def test_features_at_points_are_means_of_three_voxels_of_the_same_frame_by_inverse_distance() -> None:
    net = encoder().eval()
    features, coors = voxels()
    with torch.no_grad():
        _, stages = SparseEncoder.forward(net, features, coors, 2)
    points = torch.cat((coors[:, :1].float(), features[:, :3] + 0.1 * torch.rand(60, 3)), dim=1)  # no ties
    stage, size = stages[1], (0.5, 0.5, 0.4)
    actual = net.make_auxiliary_points(stage, points, net._voxel_size_of(stage))
    centers = (stage.indices[:, [3, 2, 1]] + 0.5) * torch.tensor(size) + torch.tensor(RANGE)
    for i, (frame, *xyz) in enumerate(points.tolist()):
        distances = sorted(
            (float(torch.dist(torch.tensor(xyz), centers[j])), j)
            for j in range(len(centers))
            if stage.indices[j, 0] == frame
        )[:3]
        weights = torch.tensor([1 / (distance + 1e-8) for distance, _ in distances])
        expected = (weights[:, None] * stage.features[[j for _, j in distances]]).sum(0) / weights.sum()
        torch.testing.assert_close(actual[i], expected, atol=1e-5, rtol=1e-4)


def test_targets_are_offsets_from_the_middle_of_the_box_that_a_point_lies_in() -> None:
    points = torch.tensor([[0, 1.0, 0, 0.5], [0, 9, 9, 9], [1, 1.0, 0, 0.5], [1, 5, 1, -0.5]])
    boxes = [
        LiDARInstance3DBoxes(torch.tensor([[1.5, 0.5, -1, 4, 2, 2.0, 0]])),
        LiDARInstance3DBoxes(torch.tensor([[5.0, 1, -1, 1, 1, 2.0, 0.3]])),
    ]
    is_inside, offsets = encoder().get_auxiliary_targets(points, boxes)
    assert is_inside.tolist() == [True, False, False, True]
    torch.testing.assert_close(offsets, torch.tensor([[-0.5, -0.5, 0.5], [0, 0, 0], [0, 0, 0], [0, 0, -0.5]]))


def test_auxiliary_losses_fall_when_the_predictions_are_the_targets() -> None:
    net = encoder()
    points = torch.tensor([[0, 1.0, 0, 0.5], [0, 9, 9, 9]])
    boxes = [LiDARInstance3DBoxes(torch.tensor([[1.5, 0.5, -1, 4, 2, 2.0, 0]]))]
    right = net.aux_loss(points, torch.tensor([[9.0], [-9]]), torch.tensor([[-0.5, -0.5, 0.5], [7, 7, 7]]), boxes)
    wrong = net.aux_loss(points, torch.tensor([[-9.0], [9]]), torch.zeros(2, 3), boxes)
    assert right["aux_loss_reg"][0] == 0
    assert right["aux_loss_cls"][0] < 1e-6 < wrong["aux_loss_cls"][0]
    assert wrong["aux_loss_reg"][0] > 0.1


def test_every_parameter_gets_a_gradient_also_without_objects() -> None:
    net = encoder()
    features, coors = voxels()
    encoded, misc = net(features, coors, 2)
    assert misc is not None
    empty = [LiDARInstance3DBoxes(torch.zeros(0, 7))] * 2
    losses = net.aux_loss(*misc, empty)
    (encoded.sum() + sum(one[0] for one in losses.values())).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
