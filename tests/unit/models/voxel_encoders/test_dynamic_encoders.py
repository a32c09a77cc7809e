"""Dynamic voxel encoders: equal to the hard ones where no voxel is full, several layers, no points."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

RANGE = {"voxel_size": [0.5, 0.5, 4], "point_cloud_range": [0, -4, -3, 8, 4, 1]}


def batch(kind):
    torch.manual_seed(0)
    points = [torch.rand(n, 4) * torch.tensor([8.0, 8, 4, 1]) - torch.tensor([0.0, 4, 3, 0]) for n in (150, 90)]
    points[1] = torch.cat((points[1], torch.tensor([[100.0, 0, 0, 0]])))  # out of range
    layer = {"max_num_points": 64 if kind == "hard" else -1, "max_voxels": 4000 if kind == "hard" else (-1, -1)}
    preprocessor = MODELS.build(
        {"type": "Det3DDataPreprocessor", "voxel": True, "voxel_type": kind, "voxel_layer": {**layer, **RANGE}}
    )
    return preprocessor({"inputs": {"points": points}, "data_samples": None})["inputs"]["voxels"]


def in_order(features, coors):
    order = sorted(range(len(coors)), key=lambda i: coors[i].tolist())
    return features[order], coors[order]


def test_means_equal_those_of_hard_voxels():
    hard, dynamic = batch("hard"), batch("dynamic")
    mean, coors = in_order(
        MODELS.build({"type": "HardSimpleVFE"})(hard["voxels"], hard["num_points"], hard["coors"]), hard["coors"]
    )
    ours, voxels = MODELS.build({"type": "DynamicSimpleVFE", **RANGE})(dynamic["voxels"], dynamic["coors"])
    assert torch.equal(voxels, coors)
    torch.testing.assert_close(ours, mean)


def test_pillars_equal_those_of_the_hard_encoder_with_running_statistics():
    hard, dynamic = batch("hard"), batch("dynamic")
    plain = MODELS.build({"type": "PillarFeatureNet", "legacy": False, **RANGE}).eval()
    encoder = MODELS.build({"type": "DynamicPillarFeatureNet", **RANGE}).eval()
    assert list(encoder.state_dict())[:2] == ["pfn_layers.0.0.weight", "pfn_layers.0.1.weight"]
    encoder.pfn_layers[0][0].load_state_dict(plain.pfn_layers[0].linear.state_dict())
    wanted, coors = in_order(plain(hard["voxels"], hard["num_points"], hard["coors"]), hard["coors"])
    ours, voxels = encoder(dynamic["voxels"], dynamic["coors"])
    assert torch.equal(voxels, coors)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_several_layers_train(mode):
    given = batch("dynamic")
    encoder = MODELS.build(
        {
            "type": "DynamicVFE",
            "feat_channels": [8, 6],
            "with_distance": True,
            "with_cluster_center": True,
            "with_voxel_center": True,
            "mode": mode,
            **RANGE,
        }
    )
    out, _ = encoder(given["voxels"], given["coors"])
    assert out.shape[1] == 6
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_no_points_and_bad_settings():
    encoder = MODELS.build({"type": "DynamicPillarFeatureNet", **RANGE})
    out, coors = encoder(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32))
    assert out.shape == (0, 64)
    assert coors.shape == (0, 4)
    out.sum().backward()
    with pytest.raises(InputError, match="mode"):
        MODELS.build({"type": "DynamicVFE", "feat_channels": [4], "mode": "sum"})
    with pytest.raises(InputError, match="fusion_layer"):
        MODELS.build({"type": "DynamicVFE", "feat_channels": [4], "fusion_layer": {"type": "PointFusion"}})
