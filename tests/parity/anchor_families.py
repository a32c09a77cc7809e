"""Numbers of MMDetection3D 1.4.0 for RegNet, FreeAnchor and SSN: losses, gradients and predictions on drawn inputs.

    PYTHONPATH=REFERENCE_FOLDER python tests/parity/anchor_families.py OUT.npz

runs in an environment with MMDetection3D, without its compiled ops (`import standins` first makes it importable).
Inputs are drawn by numpy from fixed seeds, so that only outputs are stored.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 3
SIZES = [[1.7, 0.6, 1.3], [0.7, 0.7, 1.8], [4.6, 1.9, 1.7]]
RANGE = [-16, -12, -1.8, 16, 12, -1.8]
METAS: list[dict[str, Any]] = [{}]

LOSSES: dict[str, Any] = {
    "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
    "loss_bbox": {"type": "mmdet.SmoothL1Loss", "beta": 1 / 9, "loss_weight": 0.8},
    "loss_dir": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.2},
}
CODE_WEIGHT = [1.0] * 7 + [0.25, 0.25]
ASSIGNER = {
    "type": "Max3DIoUAssigner",
    "iou_calculator": {"type": "BboxOverlapsNearest3D"},
    "pos_iou_thr": 0.5,
    "neg_iou_thr": 0.35,
    "min_pos_iou": 0.35,
    "ignore_iof_thr": -1,
}

FREE_ANCHOR: dict[str, Any] = {
    "type": "FreeAnchor3DHead",
    "num_classes": CLASSES,
    "in_channels": 16,
    "feat_channels": 16,
    "pre_anchor_topk": 3,  # bags that share no anchor: the original mixes up the boxes of an anchor in two bags
    "bbox_thr": 0.5,
    "gamma": 2.0,
    "alpha": 0.5,
    "anchor_generator": {
        "type": "AlignedAnchor3DRangeGenerator",
        "ranges": [RANGE],
        "scales": [1, 2],
        "sizes": SIZES,
        "custom_values": [0, 0],
        "rotations": [0, 1.57],
        "reshape_out": True,
    },
    "assigner_per_size": False,
    "diff_rad_by_sin": True,
    "dir_offset": -0.7854,
    "bbox_coder": {"type": "DeltaXYZWLHRBBoxCoder", "code_size": 9},
    **LOSSES,
    "train_cfg": {"assigner": ASSIGNER, "code_weight": CODE_WEIGHT},
    "test_cfg": {"nms_pre": 100, "nms_thr": 0.2, "score_thr": 0.05, "max_num": 50},
}

SHAPE_AWARE: dict[str, Any] = {
    "type": "ShapeAwareHead",
    "num_classes": CLASSES,
    "in_channels": 16,
    "feat_channels": 16,
    "anchor_generator": {
        "type": "AlignedAnchor3DRangeGeneratorPerCls",
        "ranges": [RANGE] * CLASSES,
        "sizes": SIZES,
        "custom_values": [0, 0],
        "rotations": [0, 1.57],
        "reshape_out": False,
    },
    "tasks": [
        {"num_class": 2, "class_names": ["a", "b"], "shared_conv_channels": (8, 8), "shared_conv_strides": (1, 1)},
        {"num_class": 1, "class_names": ["c"], "shared_conv_channels": (8, 8, 8), "shared_conv_strides": (2, 1, 1)},
    ],
    "assign_per_class": True,
    "diff_rad_by_sin": True,
    "dir_offset": -0.7854,
    "bbox_coder": {"type": "DeltaXYZWLHRBBoxCoder", "code_size": 9},
    **LOSSES,
    "train_cfg": {"assigner": [ASSIGNER] * CLASSES, "code_weight": CODE_WEIGHT, "pos_weight": -1},
    "test_cfg": {"nms_pre": 100, "nms_thr": 0.2, "score_thr": 0.05, "max_num": 50},
}

REGNET: dict[str, Any] = {"arch": "regnetx_400mf", "stem_channels": 16, "strides": (1, 2, 2, 2), "norm_eval": False}


def fill(module: nn.Module, seed: int) -> None:
    """Draw every weight and statistic of a module, in the order of its state dict."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                drawn = rng.normal(0, 0.1, tuple(value.shape)) + (
                    1 if name.endswith(("running_var", "bn.weight")) else 0
                )
                value.copy_(torch.from_numpy(np.abs(drawn) if name.endswith("running_var") else drawn))


def boxes(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw (N, 9) boxes near the anchors and their (N,) labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    grid = np.stack(np.meshgrid([-12, -4, 4, 12], [-8, 0, 8]), axis=-1).reshape(-1, 2)[:count]
    center = np.concatenate((grid, np.full((count, 1), -1.8)), axis=1) + rng.uniform(-0.5, 0.5, (count, 3))
    size = np.array(SIZES)[labels] * rng.uniform(0.9, 1.1, (count, 3))
    rest = np.concatenate((rng.uniform(-3, 3, (count, 1)), rng.normal(0, 1, (count, 2))), axis=1)
    return torch.from_numpy(np.concatenate((center, size, rest), axis=1)).float(), torch.from_numpy(labels)


def maps(seed: int, channels: int, *sizes: tuple[int, int]) -> list[Tensor]:
    """Draw one (1, channels, H, W) map per size."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(0, 1, (1, channels, *size))).float() for size in sizes]


def head_numbers(
    head: Any, x: list[Tensor], truth: Any, flatten: Callable[[Mapping[str, Any]], dict[str, Tensor]]
) -> dict[str, np.ndarray]:
    """Compute the outputs, losses and gradients of a head."""
    fill(head, 1)
    head.train()
    outs = head(x)
    losses = flatten(head.loss_by_feat(*outs, [truth], METAS))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    numbers = {f"out{i}": torch.cat([level.flatten() for level in out]) for i, out in enumerate(outs)}
    numbers |= {name: value.reshape(1) for name, value in losses.items()}
    numbers |= {f"grad {name}": p.grad.flatten() for name, p in head.named_parameters() if p.grad is not None}
    return {name: value.detach().double().numpy() for name, value in numbers.items()}


def flatten_losses(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """Sum losses that are lists over levels."""
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}  # type: ignore[misc]


def compress(numbers: dict[str, np.ndarray], keep: int = 400) -> dict[str, np.ndarray]:
    """Keep evenly spaced entries, and the sum of squares of all."""
    out = {}
    for name, value in numbers.items():
        out[name] = value[:: max(1, len(value) // keep)].astype(np.float32)
        out[f"{name} norm"] = np.array([np.sqrt(np.square(value).sum())])
    return out


def main() -> None:
    import standins  # type: ignore[import-not-found] # noqa: F401
    from mmdet3d.models.backbones import NoStemRegNet  # type: ignore[import-not-found]
    from mmdet3d.registry import MODELS  # type: ignore[import-not-found]
    from mmdet3d.structures import LiDARInstance3DBoxes  # type: ignore[import-not-found]
    from mmengine.config import ConfigDict  # type: ignore[import-not-found]
    from mmengine.structures import InstanceData  # type: ignore[import-not-found]

    tensor, labels = boxes(5, 12)
    truth = InstanceData(bboxes_3d=LiDARInstance3DBoxes(tensor, box_dim=9), labels_3d=labels)
    stored: dict[str, np.ndarray] = {}
    for name, cfg, sizes in (("free", FREE_ANCHOR, ((12, 16), (6, 8))), ("ssn", SHAPE_AWARE, ((24, 32),))):
        head = MODELS.build(ConfigDict(cfg))
        numbers = head_numbers(head, maps(3, 16, *sizes), truth, flatten_losses)
        stored |= {f"{name} {key}": value for key, value in compress(numbers).items()}
    net = NoStemRegNet(**REGNET)
    fill(net, 2)
    net.eval()  # returns nothing there
    outs = net(maps(4, 16, (16, 12))[0])
    stored |= {f"regnet {i}": value for i, value in enumerate(map(_first, outs))}
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    stored["regnet shapes"] = np.array([f"{name} {shape}" for name, shape in shapes.items()])
    np.savez_compressed(Path(sys.argv[1]), **stored)  # type: ignore[arg-type]


def _first(value: Tensor) -> np.ndarray:
    return value.detach().flatten()[:: max(1, value.numel() // 400)].numpy()


if __name__ == "__main__":
    main()
