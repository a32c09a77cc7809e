"""`SECONDFPN`: shapes, layers by stride, memory formats."""

import torch
from torch import nn

from raydet3d.registry import MODELS

BACKBONE = {"type": "SECOND", "in_channels": 4, "out_channels": [4, 8], "layer_nums": [1, 0], "layer_strides": [1, 2]}
NECK = {"type": "SECONDFPN", "in_channels": [4, 8], "out_channels": [6, 6], "upsample_strides": [1, 2]}


def test_maps_are_brought_to_one_resolution():
    neck = MODELS.build(NECK)
    (joined,) = neck([torch.zeros(1, 4, 8, 6), torch.zeros(1, 8, 4, 3)])
    assert joined.shape == (1, 12, 8, 6)
    assert neck.deblocks[1][0].weight.shape == (8, 6, 2, 2)


def test_channels_last_does_not_change_values():
    torch.manual_seed(0)
    net = nn.Sequential(MODELS.build(BACKBONE), MODELS.build(NECK)).double()
    x = torch.randn(2, 4, 8, 6, dtype=torch.float64)
    (contiguous,) = net(x)
    (last,) = net(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, contiguous)


def test_strides_of_one_and_below_use_convolutions():
    neck = MODELS.build(
        {
            "type": "SECONDFPN",
            "in_channels": [4, 4, 8],
            "out_channels": [6, 6, 6],
            "upsample_strides": [0.5, 1, 2],
            "use_conv_for_no_stride": True,
        }
    )
    assert [type(block[0]).__name__ for block in neck.deblocks] == ["Conv2d", "Conv2d", "Deconv"]
    assert neck.deblocks[0][0].weight.shape == (6, 4, 2, 2)
    (out,) = neck([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4), torch.zeros(1, 8, 2, 2)])
    assert out.shape == (1, 18, 4, 4)
