"""`SECOND`: shapes, names of the weights, checks of its arguments."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

BACKBONE = {"type": "SECOND", "in_channels": 4, "out_channels": [4, 8], "layer_nums": [1, 0], "layer_strides": [1, 2]}


def test_shapes_and_names_of_weights():
    backbone = MODELS.build(BACKBONE)
    maps = backbone(torch.zeros(1, 4, 8, 6))
    assert [tuple(m.shape) for m in maps] == [(1, 4, 8, 6), (1, 8, 4, 3)]
    weights = [name for name, p in backbone.named_parameters() if p.ndim == 4]
    assert weights == ["blocks.0.0.weight", "blocks.0.3.weight", "blocks.1.0.weight"]
    norm = backbone.blocks[0][1]
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


def test_init_cfg_replaces_the_default_initialization():
    backbone = MODELS.build({**BACKBONE, "init_cfg": {"type": "Constant", "layer": "Conv2d", "val": 0.5}})
    backbone.init_weights()
    assert backbone.blocks[0][0].weight.unique().tolist() == [0.5]


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="layer_nums has 3"):
        MODELS.build({**BACKBONE, "layer_nums": [1, 1, 1]})
