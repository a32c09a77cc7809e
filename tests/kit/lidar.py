"""Model configs of SECOND and CenterPoint that fit a test: the shipped ones on a square of 10.24 m."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HALF = 5.12
SPAN = [0, -HALF, -3, 2 * HALF, HALF, 1]
TASKS = [{"num_class": 2, "class_names": ["Pedestrian", "Cyclist"]}, {"num_class": 1, "class_names": ["Car"]}]


def model_of(name: str) -> dict[str, Any]:
    """The model of a shipped config."""
    from raydet3d.config import Config  # not installed where the original runs

    model: dict[str, Any] = Config.fromfile(CONFIGS / name).to_dict()["model"]
    return model


def second(cfg: dict[str, Any] | None = None) -> dict[str, Any]:
    """SECOND of KITTI with few channels: 128 x 128 x 40 voxels of 8 cm, a map of 16 x 16."""
    cfg = cfg or model_of("second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py")
    layer = cfg["data_preprocessor"]["voxel_layer"]
    layer.update(point_cloud_range=SPAN, voxel_size=[0.08, 0.08, 0.1], max_voxels=(4000, 4000))
    cfg["middle_encoder"].update(
        sparse_shape=[41, 128, 128],
        base_channels=4,
        output_channels=16,
        encoder_channels=((4,), (8, 8), (16, 16), (16, 16)),
        encoder_paddings=((1,), (1, 1), (1, 1), ((0, 1, 1), 1)),
    )
    cfg["backbone"].update(in_channels=32, layer_nums=[1, 1], out_channels=[32, 32])
    cfg["neck"].update(in_channels=[32, 32], out_channels=[32, 32])
    cfg["bbox_head"].update(in_channels=64, feat_channels=64)
    for row in cfg["bbox_head"]["anchor_generator"]["ranges"]:
        row[0], row[1], row[3], row[4] = 0, -HALF, 2 * HALF, HALF
    return cfg


def center_point_name(kind: str, *, dcn: bool = False) -> str:
    """The shipped and published config that `center_point` begins with."""
    return f"centerpoint/centerpoint_{kind}_second_secfpn{'_head-dcn' if dcn else ''}_8xb4-cyclic-20e_nus-3d.py"


def center_point(
    kind: str = "pillar02", *, velocity: bool = False, dcn: bool = False, cfg: dict[str, Any] | None = None
) -> dict[str, Any]:
    """CenterPoint of nuScenes with few channels, on KITTI's points and classes; a map of 32 x 32 or 16 x 16.

    Args:
        kind: "pillar02" or "voxel01".
        velocity: Predict velocities.
        dcn: Deformable convolutions in the head.
        cfg: The model to begin with; that of the shipped config by default.
    """
    cfg = cfg or model_of(center_point_name(kind, dcn=dcn))
    pillars = kind == "pillar02"
    voxel = [0.16, 0.16, 4] if pillars else [0.08, 0.08, 0.1]
    cells = 64 if pillars else 128
    layer = cfg["data_preprocessor"]["voxel_layer"]
    layer.update(point_cloud_range=SPAN, voxel_size=voxel, max_voxels=(4000, 4000))
    if pillars:
        cfg["pts_voxel_encoder"].update(in_channels=4, feat_channels=[16], voxel_size=voxel, point_cloud_range=SPAN)
        cfg["pts_middle_encoder"].update(in_channels=16, output_shape=(cells, cells))
        cfg["pts_backbone"].update(in_channels=16, layer_nums=[1, 1, 1], out_channels=[16, 16, 32])
        cfg["pts_neck"].update(in_channels=[16, 16, 32], out_channels=[16] * 3, upsample_strides=[1, 2, 4])
    else:
        cfg["pts_voxel_encoder"].update(num_features=4)
        cfg["pts_middle_encoder"].update(
            in_channels=4,
            sparse_shape=[41, cells, cells],
            base_channels=4,
            output_channels=16,
            encoder_channels=((4, 4, 8), (8, 8, 16), (16, 16, 16), (16, 16)),
        )
        cfg["pts_backbone"].update(in_channels=32, layer_nums=[1, 1], out_channels=[16, 32])
        cfg["pts_neck"].update(in_channels=[16, 32], out_channels=[24, 24])
    factor = 2 if pillars else 8
    head = cfg["pts_bbox_head"]
    head.update(in_channels=48, tasks=TASKS, share_conv_channel=16)
    head["bbox_coder"].update(
        voxel_size=voxel[:2], pc_range=SPAN[:2], out_size_factor=factor, code_size=9 if velocity else 7, max_num=100
    )
    if dcn:
        head["separate_head"]["dcn_config"].update(in_channels=16, out_channels=16)
    train, test = cfg["train_cfg"]["pts"], cfg["test_cfg"]["pts"]
    train.update(
        grid_size=[cells, cells, 1], voxel_size=voxel, out_size_factor=factor, point_cloud_range=SPAN, max_objs=50
    )
    test.update(pc_range=SPAN[:2], voxel_size=voxel[:2], out_size_factor=factor, min_radius=[0.2, 4])
    if not velocity:
        del head["common_heads"]["vel"]
        train["code_weights"] = train["code_weights"][:8]
    return cfg


def fill(model: nn.Module) -> None:
    """Give every tensor of a model values that depend on its name and shape alone."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        draw = np.random.RandomState(zlib.crc32(name.encode())).randn(*value.shape).astype(np.float32)
        if name.endswith("running_var"):
            draw = 1 + 0.3 * np.tanh(draw)
        elif value.ndim == 1:
            is_weight = name.endswith("weight")
            draw = 1 + 0.2 * draw if is_weight else 0.1 * draw
        else:
            # Sparse weights are (kd, kh, kw, C_in, C_out).
            fan = value.shape[:4].numel() if value.ndim == 5 else value.shape[1:].numel()
            draw = draw * (1.4 / np.sqrt(fan))
        with torch.no_grad():
            value.copy_(torch.from_numpy(np.asarray(draw)))


def flatten(outs: Any, name: str = "map") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested tuples, lists and dicts with a name that says where it stands."""
    if isinstance(outs, Tensor):
        yield name, outs
    elif isinstance(outs, dict):
        for key in sorted(outs):
            yield from flatten(outs[key], f"{name}.{key}")
    else:
        for index, one in enumerate(outs):
            yield from flatten(one, f"{name}.{index}")


def fingerprint(name: str, grad: Tensor) -> list[float]:
    """Norm of a gradient, and its product with a direction that depends on its name alone."""
    direction = np.random.RandomState(zlib.crc32(name.encode())).randn(grad.numel())
    return [
        float(grad.double().norm()),
        float(grad.double().flatten() @ torch.from_numpy(direction / np.sqrt(grad.numel()))),
    ]
