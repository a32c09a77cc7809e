"""`DynamicVoxelNet`: losses and predictions of both published kinds, a frame without points."""

import pytest
import torch

from raydet3d.registry import MODELS
from tests.kit.lidar import HALF, SPAN, second
from tests.kit.pointpillars import a_frame, a_sample, reduced


def second_dynamic():
    cfg = second()
    layer = {"max_num_points": -1, "max_voxels": (-1, -1), "point_cloud_range": SPAN, "voxel_size": [0.08, 0.08, 0.1]}
    encoder = {"type": "DynamicSimpleVFE", "voxel_size": layer["voxel_size"], "point_cloud_range": SPAN}
    return dynamic(cfg, layer, encoder)


def pillars_dynamic():
    cfg = reduced(cells=16, voxel=0.64, channels=8)
    layer = {**cfg["data_preprocessor"]["voxel_layer"], "max_num_points": -1, "max_voxels": (-1, -1)}
    return dynamic(cfg, layer, {**cfg["voxel_encoder"], "type": "DynamicPillarFeatureNet"})


def dynamic(cfg, layer, encoder):
    preprocessor = {**cfg["data_preprocessor"], "voxel_type": "dynamic", "voxel_layer": layer}
    return {**cfg, "type": "DynamicVoxelNet", "data_preprocessor": preprocessor, "voxel_encoder": encoder}


@pytest.mark.parametrize("make", [second_dynamic, pillars_dynamic])
def test_trains_and_predicts(make):
    torch.manual_seed(0)
    model = MODELS.build(make())
    model.init_weights()
    frame = a_frame(torch.Generator().manual_seed(0), half=HALF, objects=3, background=600)
    batch = {"inputs": {"points": [frame[0], torch.zeros(0, 4)]}, "data_samples": [frame[1], a_sample([], [])]}
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    found = model.eval().val_step(batch)
    assert [len(sample.pred_instances_3d.scores_3d) >= 0 for sample in found] == [True, True]
