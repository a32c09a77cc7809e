"""`HardVFE`: features of a voxel by hand, layers, empty batches."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

CFG = {
    "type": "HardVFE",
    "in_channels": 4,
    "feat_channels": [8, 6],
    "with_cluster_center": True,
    "with_voxel_center": True,
    "voxel_size": [0.5, 0.5, 4],
    "point_cloud_range": [0, -4, -3, 8, 4, 1],
    "norm_cfg": {"type": "naiveSyncBN1d", "eps": 1e-3, "momentum": 0.01},
}


def test_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in MODELS.build(CFG).named_parameters()}
    assert shapes["vfe_layers.0.linear.weight"] == (8, 10)
    assert shapes["vfe_layers.1.linear.weight"] == (6, 16)


def test_first_layer_sees_offsets_to_mean_and_centre_and_zeros_in_empty_slots():
    encoder = MODELS.build({**CFG, "with_distance": True})
    seen = []
    encoder.vfe_layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    voxels = torch.zeros(1, 3, 4)
    voxels[0, 0], voxels[0, 1] = torch.tensor([1.1, -3.2, -1.0, 0.5]), torch.tensor([1.3, -3.4, -2.0, 0.1])
    out = encoder(voxels, torch.tensor([2]), torch.tensor([[0, 0, 1, 2]]))
    assert out.shape == (1, 6)
    centre = torch.tensor([1.25, -3.25, -1.0])
    mean = voxels[0, :2, :3].mean(0)
    wanted = torch.cat(
        (voxels[0, 0], voxels[0, 0, :3] - mean, voxels[0, 0, :3] - centre, voxels[0, 0, :3].norm()[None])
    )
    torch.testing.assert_close(seen[0][0, 0], wanted)
    assert seen[0][0, 2].abs().sum() == 0


def test_no_voxels():
    encoder = MODELS.build(CFG)
    out = encoder(torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.int32), torch.zeros(0, 4, dtype=torch.int32))
    assert out.shape == (0, 6)
    out.sum().backward()


def test_unsupported_options_are_refused():
    with pytest.raises(InputError, match="fusion_layer"):
        MODELS.build({**CFG, "fusion_layer": {"type": "PointFusion"}})
    with pytest.raises(InputError, match="feat_channels"):
        MODELS.build({**CFG, "feat_channels": []})
