"""Multiply-adds agree with torch's counter and with formulas by hand; parameters and activations with sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raydet3d.registry import MODELS
from raydet3d.runtime.example_frames import ExampleFrames, generate_frame
from raydet3d.runtime.model_profile import PartProfile, profile_model
from tests.kit.lidar import center_point, second
from tests.kit.pointpillars import reduced


def profiled(cfg: dict[str, object]) -> tuple[Any, ExampleFrames, dict[str, PartProfile]]:
    model = MODELS.build(cfg)
    frame = generate_frame({"model": cfg}, model, torch.Generator().manual_seed(0), 2000)
    frames = ExampleFrames([frame], "")
    return model, frames, {part.name: part for part in profile_model(model, frames.batch(1))}


@pytest.mark.parametrize(
    "cfg", [reduced(), second(), center_point(dcn=True)], ids=["pointpillars", "second", "centerpoint-dcn"]
)
def test_parts_add_up_to_torchs_count(cfg: dict[str, object]) -> None:
    model, frames, parts = profiled(cfg)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**model.data_preprocessor(frames.batch(1), False), mode="tensor")
    assert sum(part.multiply_adds for part in parts.values()) == counter.get_total_flops() // 2
    assert sum(part.parameters for part in parts.values()) == sum(one.numel() for one in model.parameters())


def test_backbone_and_head_against_formulas() -> None:
    model, _, parts = profiled(reduced())
    products = 0
    side = 128
    for block in model.backbone.blocks:
        for layer in block:
            if isinstance(layer, torch.nn.Conv2d):
                side //= layer.stride[0]
                products += side * side * layer.weight.numel()
    assert parts["backbone"].multiply_adds == products
    maps = parts["bbox_head"].output_shapes
    channels = sum(shape[1] for shape in maps)
    assert parts["bbox_head"].multiply_adds == channels * model.bbox_head.in_channels * maps[0][2] * maps[0][3]
    assert parts["bbox_head"].activation_bytes == 4 * channels * maps[0][2] * maps[0][3]
    assert parts["voxel_encoder"].output_shapes[0] == [parts["data_preprocessor"].output_shapes[1][0], 32]


def test_layers_in_place_are_counted_once() -> None:
    """A convolution and a normalization write a map each, the ReLU over it none."""
    model, _, parts = profiled(reduced())
    numbers = sum(
        2 * shape[1] * shape[2] * shape[3] * (len(block) // 3)
        for shape, block in zip(parts["backbone"].output_shapes, model.backbone.blocks, strict=True)
    )
    assert parts["backbone"].activation_bytes == 4 * numbers
