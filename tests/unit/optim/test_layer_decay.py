"""Layer-wise and stage-wise learning rates, against numbers worked out by hand from the published groupings."""

import doctest

import pytest
from torch import nn

from raydet3d.errors import InputError
from raydet3d.optim import build_optim_wrapper, layer_decay

OPTIMIZER = {"type": "AdamW", "lr": 1.0, "weight_decay": 0.05}


class ConvNeXt(nn.Module):
    """The names of the real one: a stem and three reductions, four stages of blocks, a norm for each output."""

    def __init__(self, depths=(1, 1, 4, 1)):
        super().__init__()
        self.downsample_layers = nn.ModuleList(nn.Sequential(nn.Conv2d(2, 2, 1)) for _ in depths)
        self.stages = nn.ModuleList(nn.Sequential(*(nn.Linear(2, 2) for _ in range(n))) for n in depths)
        self.norm3 = nn.LayerNorm(2)


class BEiT(nn.Module):
    def __init__(self, layers=3):
        super().__init__()
        self.cls_token = nn.Parameter(nn.Linear(2, 1).weight.detach()[None])
        self.patch_embed = nn.Sequential(nn.Conv2d(2, 2, 1))
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(layers))
        self.norm = nn.LayerNorm(2)


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.bbox_head = nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 1).requires_grad_(False)


def build(backbone, optimizer=OPTIMIZER, **paramwise):
    cfg = {"constructor": "LearningRateDecayOptimizerConstructor", "optimizer": optimizer, "paramwise_cfg": paramwise}
    return build_optim_wrapper(Detector(backbone), cfg)


def settings(wrapper):
    """(lr, weight decay) by parameter, as a checkpoint shows them."""
    groups = wrapper.state_dict()["param_groups"]
    return {name: (g["lr"], g["weight_decay"]) for g in groups for name in g["param_names"]}


def test_the_examples():
    assert doctest.testmod(layer_decay).failed == 0


def test_layers_of_a_convnext():
    # num_layers=6: depths 0 to 7, so the head's exponent is 0 and the stem's 7.
    got = settings(build(ConvNeXt(), num_layers=6, decay_rate=0.5))
    depths = {
        "downsample_layers.0.0.weight": 0,
        "downsample_layers.1.0.weight": 2,
        "downsample_layers.2.0.weight": 3,
        "downsample_layers.3.0.weight": 6,
        "stages.0.0.weight": 1,
        "stages.1.0.weight": 2,
        "stages.2.0.weight": 3,
        "stages.2.2.weight": 3,
        "stages.2.3.weight": 4,
        "stages.3.0.weight": 6,
    }
    for name, depth in depths.items():
        assert got[f"backbone.{name}"] == (0.5 ** (7 - depth), 0.05), name
        assert got[f"backbone.{name.replace('weight', 'bias')}"] == (0.5 ** (7 - depth), 0.0), name
    assert got["backbone.norm3.weight"] == (1.0, 0.0)  # a norm above the stages counts as the head
    assert got["bbox_head.weight"] == (1.0, 0.05)
    assert "frozen.weight" not in got


def test_stages_of_a_convnext():
    got = settings(build(ConvNeXt(), num_layers=6, decay_rate=0.5, decay_type="stage_wise"))
    for name, depth in {"downsample_layers.3.0.weight": 0, "stages.0.0.weight": 1, "stages.3.0.weight": 4}.items():
        assert got[f"backbone.{name}"] == (0.5 ** (7 - depth), 0.05), name
    assert got["bbox_head.bias"] == (1.0, 0.0)


@pytest.mark.parametrize("decay_type", ["layer_wise", "layer_wise_vit"])
def test_layers_of_a_transformer(decay_type):
    got = settings(build(BEiT(), num_layers=3, decay_rate=0.5, decay_type=decay_type))
    expected = {
        "backbone.cls_token": 0,
        "backbone.patch_embed.0.weight": 0,
        "backbone.layers.0.weight": 1,
        "backbone.layers.2.weight": 3,
        "bbox_head.weight": 4,
    }
    for name, depth in expected.items():
        assert got[name] == (0.5 ** (4 - depth), 0.05), name


def test_one_group_for_each_depth_and_decay():
    wrapper = build(BEiT(), num_layers=3, decay_rate=0.5)
    groups = wrapper.optimizer.param_groups
    assert [g["group_name"] for g in groups] == [
        "layer_0_decay",
        "layer_0_no_decay",
        "layer_1_decay",
        "layer_1_no_decay",
        "layer_2_decay",
        "layer_2_no_decay",
        "layer_3_decay",
        "layer_3_no_decay",
        "layer_4_no_decay",
        "layer_4_decay",
    ]
    assert wrapper.get_lr()["base_lr"] == [1.0]
    assert groups[0]["lr_scale"] == 0.0625


@pytest.mark.parametrize(
    ("paramwise", "what"),
    [
        ({"decay_rate": 0.5}, "no num_layers, which must be an integer of at least 1"),
        ({"num_layers": 6}, "no decay_rate, which must be a number above 0"),
        ({"num_layers": 6, "decay_rate": "0.5"}, "decay_rate must be"),
        ({"num_layers": 6, "decay_rate": 0.5, "rate": 1}, "has no 'rate'"),
        ({"num_layers": 6, "decay_rate": 0.5, "decay_type": "stages"}, "no layer decay 'stages' for .* ConvNeXt"),
    ],
)
def test_refuses(paramwise, what):
    with pytest.raises(InputError, match=what):
        build(ConvNeXt(), **paramwise)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(InputError, match="for the backbone Sequential; there are layer_wise of ConvNeXt"):
        build(nn.Sequential(nn.Linear(2, 2)), num_layers=6, decay_rate=0.5)


@pytest.mark.parametrize("missing", ["lr", "weight_decay"])
def test_needs_both_settings(missing):
    optimizer = {key: value for key, value in OPTIMIZER.items() if key != missing}
    with pytest.raises(InputError, match=f"needs optim_wrapper.optimizer.{missing}"):
        build(BEiT(), optimizer, num_layers=3, decay_rate=0.5)
