"""`FPN`: shapes, further levels, values without upsampling."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

CFG = {"type": "mmdet.FPN", "in_channels": [4, 8, 16], "out_channels": 6, "num_outs": 3}


def inputs():
    return [torch.randn(2, c, 16 // 2**i, 12 // 2**i) for i, c in enumerate((4, 8, 16))]


def test_all_outputs_have_the_same_channels():
    torch.manual_seed(0)
    outs = MODELS.build({**CFG, "norm_cfg": {"type": "naiveSyncBN2d"}, "act_cfg": {"type": "ReLU"}})(inputs())
    assert [tuple(one.shape) for one in outs] == [(2, 6, 16, 12), (2, 6, 8, 6), (2, 6, 4, 3)]
    assert all((one >= 0).all() for one in outs)


def test_coarser_maps_are_added_to_finer_ones():
    torch.manual_seed(0)
    neck = MODELS.build(CFG)
    maps = inputs()
    lateral = [conv(x) for conv, x in zip(neck.lateral_convs, maps, strict=True)]
    middle = lateral[1] + lateral[2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    fine = lateral[0] + middle.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(neck(maps)[0], neck.fpn_convs[0](fine))


@pytest.mark.parametrize(("extra", "convs"), [(False, 3), ("on_input", 5), ("on_output", 5), ("on_lateral", 5)])
def test_further_levels(extra, convs):
    neck = MODELS.build({**CFG, "num_outs": 5, "add_extra_convs": extra})
    assert len(neck.fpn_convs) == convs
    outs = neck(inputs())
    assert [tuple(one.shape[2:]) for one in outs] == [(16, 12), (8, 6), (4, 3), (2, 2), (1, 1)]


def test_levels_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="num_outs"):
        MODELS.build({**CFG, "num_outs": 2})
