"""`ConvModule` and `DepthwiseSeparableConvModule`: names, order, bias, initialization; activations and other layers."""

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models import ConvModule, DepthwiseSeparableConvModule
from raydet3d.models.layers.build_layer import build_activation_layer, build_norm_layer, build_upsample_layer


def test_names_and_bias():
    plain = ConvModule(3, 4, 3, padding=1)
    assert list(plain.state_dict()) == ["conv.weight", "conv.bias"]
    normed = ConvModule(3, 4, 3, padding=1, norm_cfg={"type": "BN"})
    assert [name for name, _ in normed.named_parameters()] == ["conv.weight", "bn.weight", "bn.bias"]
    assert normed.norm is normed.bn
    grouped = ConvModule(3, 4, 1, norm_cfg={"type": "GN", "num_groups": 2}, act_cfg=None)
    assert isinstance(grouped.gn, nn.GroupNorm)
    assert not grouped.with_activation


def test_order_and_switches():
    torch.manual_seed(0)
    module = ConvModule(3, 3, 1, norm_cfg={"type": "BN"}, order=("norm", "act", "conv"))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(module(x), module.conv(torch.relu(module.bn(x))))
    torch.testing.assert_close(module(x, activate=False, norm=False), module.conv(x))
    with pytest.raises(InputError, match="order"):
        ConvModule(3, 3, 1, order=("conv", "norm"))


def test_convolutions_begin_with_kaiming_over_the_fan_out():
    torch.manual_seed(0)
    module = ConvModule(64, 256, 3, norm_cfg={"type": "BN"})
    assert module.conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_depthwise_separable():
    module = DepthwiseSeparableConvModule(4, 6, 3, padding=1, norm_cfg={"type": "BN"}, dw_norm_cfg=None)
    assert module(torch.randn(1, 4, 5, 5)).shape == (1, 6, 5, 5)
    assert module.depthwise_conv.conv.groups == 4
    assert module.depthwise_conv.norm is None
    assert module.pointwise_conv.norm is not None


def test_other_layers():
    assert build_activation_layer({"type": "LeakyReLU", "negative_slope": 0.1}).negative_slope == 0.1
    assert build_activation_layer({"type": "ReLU"}, inplace=True).inplace
    with pytest.raises(InputError, match="act_cfg"):
        build_activation_layer({"type": "RelU"})
    assert build_norm_layer({"type": "LN"}, 8)[0] == "ln"
    assert build_norm_layer({"type": "IN"}, 8)[0] == "in"
    assert build_norm_layer({"type": "naiveSyncBN2d"}, 8, postfix=2)[0] == "bn2"
    with pytest.raises(InputError, match="num_groups"):
        build_norm_layer({"type": "GN"}, 8)
    up = build_upsample_layer({"type": "bilinear"}, scale_factor=2)
    assert up(torch.randn(1, 2, 3, 3)).shape == (1, 2, 6, 6)
