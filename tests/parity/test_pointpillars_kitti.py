"""The published KITTI PointPillars: its tensors by name and shape, and its anchors.

Reference: the list of keys and shapes of the published checkpoint's model, beside this file; the published values,
typed here and in the kit a second time.
"""

from pathlib import Path

import pytest
import torch

from raydet3d.config import Config
from raydet3d.registry import MODELS, TASK_UTILS
from tests.kit.pointpillars import published

LIST = Path(__file__).with_name("pointpillars_kitti_3class_state_dict.txt")


def test_has_the_published_tensors():
    with torch.device("meta"):
        model = MODELS.build(published())
    ours = {name: f"[{', '.join(map(str, value.shape))}]" for name, value in model.state_dict().items()}
    listed = dict(line.split(" ", 1) for line in LIST.read_text().splitlines())
    assert ours == listed
    assert len(ours) == 126
    assert sum(p.numel() for p in model.parameters()) == 4_834_888


def without_scopes(value):
    if isinstance(value, dict):
        return {k: v.rsplit(".", 1)[-1] if k == "type" else without_scopes(v) for k, v in value.items()}
    return [without_scopes(item) for item in value] if isinstance(value, list | tuple) else value


def test_the_shipped_config_holds_the_published_values():
    cfg = Config.fromfile("pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py").to_dict()
    assert without_scopes(cfg["model"]) == without_scopes(published())
    wrapper = cfg["optim_wrapper"]
    assert wrapper["optimizer"] == {"type": "AdamW", "lr": 0.001, "betas": (0.95, 0.99), "weight_decay": 0.01}
    assert wrapper["clip_grad"] == {"max_norm": 35, "norm_type": 2}
    curves = [(c["type"], c["begin"], c["end"], c["T_max"], c["eta_min"]) for c in cfg["param_scheduler"]]
    assert curves == [
        ("CosineAnnealingLR", 0, 32, 32, pytest.approx(0.01)),
        ("CosineAnnealingLR", 32, 80, 48, pytest.approx(1e-7)),
        ("CosineAnnealingMomentum", 0, 32, 32, pytest.approx(0.85 / 0.95)),
        ("CosineAnnealingMomentum", 32, 80, 48, 1),
    ]
    assert (cfg["train_cfg"]["max_epochs"], cfg["train_cfg"]["val_interval"]) == (80, 2)
    loader = cfg["train_dataloader"]
    assert (loader["batch_size"], loader["dataset"]["type"], loader["dataset"]["times"]) == (6, "RepeatDataset", 2)
    steps = {step["type"]: step for step in loader["dataset"]["dataset"]["pipeline"]}
    assert list(steps) == [
        *("LoadPointsFromFile", "LoadAnnotations3D", "ObjectSample", "RandomFlip3D", "GlobalRotScaleTrans"),
        *("PointsRangeFilter", "ObjectRangeFilter", "PointShuffle", "Pack3DDetInputs"),
    ]
    sampler = steps["ObjectSample"]["db_sampler"]
    assert sampler["sample_groups"] == {"Car": 15, "Pedestrian": 15, "Cyclist": 15}
    assert sampler["prepare"]["filter_by_min_points"] == {"Car": 5, "Pedestrian": 5, "Cyclist": 5}
    assert steps["ObjectSample"]["use_ground_plane"]
    assert steps["GlobalRotScaleTrans"]["rot_range"] == [-0.78539816, 0.78539816]
    assert steps["PointsRangeFilter"]["point_cloud_range"] == [0, -39.68, -3, 69.12, 39.68, 1]
    assert cfg["auto_scale_lr"]["base_batch_size"] == 48


def test_frozen_and_channels_last_do_not_show_in_checkpoints():
    model = MODELS.build(published())
    model.init_weights()
    assert all(value.is_contiguous() for value in model.state_dict().values())


def test_anchor_values():
    generator = TASK_UTILS.build(published()["bbox_head"]["anchor_generator"])
    grid = generator.single_level_grid_anchors((248, 216), 1, device="cpu")
    assert grid.shape == (1, 248, 216, 3, 2, 7)
    # First and last cell: half a cell of 0.32 m inside of the range.
    first = [0.16, -39.52, -0.6, 0.8, 0.6, 1.73, 0.0]
    assert grid[0, 0, 0, 0, 0].tolist() == pytest.approx(first, abs=1e-5)
    last = [68.96, 39.52, -1.78, 3.9, 1.6, 1.56, 1.57]
    assert grid[0, -1, -1, 2, 1].tolist() == pytest.approx(last, abs=1e-5)
    assert grid[0, 3, 5, 1, 1].tolist() == pytest.approx(
        [5.5 * 0.32, -39.68 + 3.5 * 0.32, -0.6, 1.76, 0.6, 1.73, 1.57], abs=1e-5
    )
    # 1.57 as published, not half a turn's half.
    assert grid[..., 1, 6].unique().item() == pytest.approx(1.57, abs=1e-7)


def test_first_values():
    """Kaiming fan-out in backbone and neck; N(0, 0.01) in the head, and classes at a probability of 1 %."""
    torch.manual_seed(0)
    model = MODELS.build(published())
    model.init_weights()
    head = model.bbox_head
    assert torch.sigmoid(head.conv_cls.bias).tolist() == pytest.approx([0.01] * 18)
    assert head.conv_reg.bias.abs().max() == 0
    assert head.conv_dir_cls.bias.abs().max() == 0
    for conv in (head.conv_cls, head.conv_reg, head.conv_dir_cls):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    conv = model.backbone.blocks[2][6]
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    deconv = model.neck.deblocks[2][0]  # (256 in, 128 out, 4, 4): torch's fan-out of a transposed weight is 256 * 16
    assert deconv.weight.std().item() == pytest.approx((2 / (256 * 16)) ** 0.5, rel=0.02)
