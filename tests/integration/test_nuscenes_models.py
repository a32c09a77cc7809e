"""Models for nuScenes at published size on the real keyframe: losses, gradients, predictions.

Voxels are limited to 6,000, so that the pillars' encoder fits into a test.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raydet3d.config import Config
from raydet3d.data import pseudo_collate
from raydet3d.data.datasets.nuscenes import NuScenesDataset
from raydet3d.registry import MODELS
from tests.kit.lidar import CONFIGS, model_of
from tests.kit.shared import NUSCENES, needs_nuscenes

pytestmark = needs_nuscenes

NAMES = (
    "centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
    "centerpoint/centerpoint_voxel01_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py",
    "pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "free_anchor/pointpillars_hv_fpn_head-free-anchor_sbn-all_8xb4-2x_nus-3d.py",
            "regnet/pointpillars_hv_regnet-400mf_secfpn_sbn-all_8xb4-2x_nus-3d.py",
            "ssn/ssn_hv_secfpn_sbn-all_16xb2-2x_nus-3d.py",
        )
    ),
)


def keyframe(name: str) -> Any:
    """The keyframe as a batch, without its sweeps and without augmentation."""
    classes = Config.fromfile(CONFIGS / name).to_dict()["val_dataloader"]["dataset"]["metainfo"]["classes"]
    dims = [0, 1, 2, 3, 4] if name.startswith("centerpoint") else [0, 1, 2, 3]
    pipeline = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": dims},
        {"type": "LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True},
        {"type": "ObjectNameFilter", "classes": classes},
        {"type": "Pack3DDetInputs", "keys": ["points", "gt_bboxes_3d", "gt_labels_3d"]},
    ]
    file = next(NUSCENES.glob("*.pkl")).name
    prefix = {"pts": "", "sweeps": "", "img": ""}
    dataset = NuScenesDataset(str(NUSCENES), file, pipeline, data_prefix=prefix, metainfo={"classes": classes})
    return pseudo_collate([dataset[0]])


@pytest.mark.parametrize("name", NAMES)
def test_published_size_on_the_keyframe(name: str) -> None:
    cfg = model_of(name)
    cfg["data_preprocessor"]["voxel_layer"]["max_voxels"] = (6000, 6000)
    cfg["pts_backbone"]["init_cfg"] = None  # RegNet's weights are a download
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    batch = keyframe(name)
    assert len(batch["data_samples"][0].gt_instances_3d.labels_3d) > 30
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    (found,) = model.eval().val_step(batch)
    assert found.pred_instances_3d.bboxes_3d.tensor.shape[1] == 9
    assert found.pred_instances_3d.scores_3d.isfinite().all()
