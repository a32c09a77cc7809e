"""Backbone and neck: shapes, names, and that storage order changes no number."""

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

BACKBONE = {"type": "SECOND", "in_channels": 4, "out_channels": [4, 8], "layer_nums": [1, 0], "layer_strides": [1, 2]}
NECK = {"type": "SECONDFPN", "in_channels": [4, 8], "out_channels": [6, 6], "upsample_strides": [1, 2]}


def test_shapes_and_names():
    backbone, neck = MODELS.build(BACKBONE), MODELS.build(NECK)
    maps = backbone(torch.zeros(1, 4, 8, 6))
    assert [tuple(m.shape) for m in maps] == [(1, 4, 8, 6), (1, 8, 4, 3)]
    (joined,) = neck(maps)
    assert joined.shape == (1, 12, 8, 6)
    weights = [name for name, p in backbone.named_parameters() if p.ndim == 4]
    assert weights == ["blocks.0.0.weight", "blocks.0.3.weight", "blocks.1.0.weight"]
    assert neck.deblocks[1][0].weight.shape == (8, 6, 2, 2)
    norm = backbone.blocks[0][1]
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


def test_channels_last_is_only_a_storage_order():
    torch.manual_seed(0)
    net = nn.Sequential(MODELS.build(BACKBONE), MODELS.build(NECK)).double()
    x = torch.randn(2, 4, 8, 6, dtype=torch.float64)
    (plain,) = net(x)
    (last,) = net(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)


def test_strides_below_one_and_no_stride():
    neck = MODELS.build(
        {
            "type": "SECONDFPN",
            "in_channels": [4, 4, 8],
            "out_channels": [6, 6, 6],
            "upsample_strides": [0.5, 1, 2],
            "use_conv_for_no_stride": True,
        }
    )
    kinds = [type(block[0]).__name__ for block in neck.deblocks]
    assert kinds == ["Conv2d", "Conv2d", "Deconv"]
    assert neck.deblocks[0][0].weight.shape == (6, 4, 2, 2)
    (out,) = neck([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4), torch.zeros(1, 8, 2, 2)])
    assert out.shape == (1, 18, 4, 4)


def test_refuses_lists_of_different_length():
    with pytest.raises(InputError, match="layer_nums has 3"):
        MODELS.build({**BACKBONE, "layer_nums": [1, 1, 1]})
