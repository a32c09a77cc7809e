"""Layers built from config dicts."""

import pytest
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_conv_layer, build_norm_layer, build_upsample_layer
from raydet3d.registry import MODELS


def test_build_norm_layer_applies_settings_and_freezes_weights():
    name, norm = build_norm_layer({"type": "BN", "eps": 1e-3, "momentum": 0.01, "requires_grad": False}, 8, postfix=1)
    assert name == "bn1"
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.eps, norm.momentum, norm.num_features) == (1e-3, 0.01, 8)
    assert not any(p.requires_grad for p in norm.parameters())


def test_unknown_layer_type_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'BN1d'"):
        build_norm_layer({"type": "BN1"}, 8)
    with pytest.raises(InputError, match="upsample_cfg"):
        build_upsample_layer({"type": "carafe"}, 2, 3)


def test_build_conv_and_upsample_layers():
    conv = build_conv_layer({"type": "Conv2d", "bias": False}, 2, 3, kernel_size=3, padding=1)
    assert conv.bias is None
    assert conv.weight.shape == (3, 2, 3, 3)
    assert build_conv_layer(None, 2, 3, kernel_size=1).weight.shape == (3, 2, 1, 1)
    layer = build_upsample_layer({"type": "deconv", "bias": False}, 2, 3, kernel_size=4, stride=4)
    assert layer.weight.shape == (2, 3, 4, 4)


def test_layer_types_registered_by_users_are_found():
    class MyNorm(nn.GroupNorm):
        def __init__(self, num_features, eps):
            super().__init__(2, num_features, eps)

    with MODELS.temporary(MyNorm=MyNorm):
        assert isinstance(build_norm_layer({"type": "MyNorm"}, 8)[1], MyNorm)
