"""Learning rates that fall from the head of a network down to its stem, layer by layer or stage by stage.

Source: Clark et al., ELECTRA, 2020 (layer-wise decay); Bao et al., BEiT, 2021, and Liu et al., A ConvNet for the
2020s, 2022, whose groupings of layers these are, as `mmdet` 3.x (ConvNeXt) and `mmseg` 1.x (BEiT, MAE) have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from raydet3d.config.type_check import PositiveFloat, PositiveInt, read_section
from raydet3d.errors import InputError
from raydet3d.log import MMLogger
from raydet3d.optim.constructor import DefaultOptimWrapperConstructor
from raydet3d.optim.param_groups import Group
from raydet3d.registry import OPTIM_WRAPPER_CONSTRUCTORS

EMBEDDINGS = ("backbone.cls_token", "backbone.mask_token", "backbone.pos_embed")
_CONVNEXT = re.compile(r"backbone\.(downsample_layers|stages)\.(\d+)(?:\.(\d+))?")
_VIT = re.compile(r"backbone\.layers\.(\d+)")


def convnext_layer(name: str, num_layers: int) -> int:
    """Return the depth of a ConvNeXt parameter: the third stage counts one layer per three blocks, the others one.

    Args:
        name: The parameter's, from the model's root.
        num_layers: The config's; the stem is 0, the last stage `num_layers`, what stands above the backbone 1 more.

    >>> names = ["downsample_layers.0.0.weight", "stages.1.0.gamma", "stages.2.7.gamma", "stages.3.0.gamma"]
    >>> [convnext_layer(f"backbone.{name}", 6) for name in names], convnext_layer("bbox_head.weight", 6)
    ([0, 2, 5, 6], 7)
    """
    if name in EMBEDDINGS:
        return 0
    found = _CONVNEXT.match(name)
    if found is None:
        return num_layers + 1
    kind, stage, block = found[1], int(found[2]), int(found[3] or 0)
    if stage > 2:
        return num_layers
    if kind == "downsample_layers":
        return (0, 2, 3)[stage]
    return (1, 2, 3 + block // 3)[stage]


def convnext_stage(name: str, num_layers: int) -> int:
    """Return the depth of a ConvNeXt parameter by its stage: 0 between stages, else the stage's number from 1.

    Args:
        name: The parameter's, from the model's root.
        num_layers: The config's; what stands above the backbone is 1 more.

    >>> names = ["downsample_layers.3.0.weight", "stages.0.0.gamma", "stages.3.0.gamma"]
    >>> [convnext_stage(f"backbone.{name}", 6) for name in names], convnext_stage("bbox_head.weight", 6)
    ([0, 1, 4], 7)
    """
    if name in EMBEDDINGS:
        return 0
    found = _CONVNEXT.match(name)
    if found is None:
        return num_layers + 1
    return 0 if found[1] == "downsample_layers" else int(found[2]) + 1


def vit_layer(name: str, num_layers: int) -> int:
    """Return the depth of a vision transformer's parameter: embeddings 0, `layers.i` 1 + i, the rest above.

    Args:
        name: The parameter's, from the model's root.
        num_layers: The config's: the transformer's layers.

    >>> names = ["pos_embed", "patch_embed.projection.weight", "layers.11.attn.qkv.weight", "norm.weight"]
    >>> [vit_layer(f"backbone.{name}", 12) for name in names]
    [0, 0, 12, 13]
    """
    if name in EMBEDDINGS or name.startswith("backbone.patch_embed"):
        return 0
    found = _VIT.match(name)
    return num_layers + 1 if found is None else int(found[1]) + 1


# What part of the backbone's class name, and what decay_type, means which depth.
DEPTHS: dict[tuple[str, str], Callable[[str, int], int]] = {
    ("ConvNeXt", "layer_wise"): convnext_layer,
    ("ConvNeXt", "stage_wise"): convnext_stage,
    ("BEiT", "layer_wise"): vit_layer,
    ("MAE", "layer_wise"): vit_layer,
    ("VisionTransformer", "layer_wise"): vit_layer,
}


@dataclass(frozen=True, kw_only=True)
class LayerDecayCfg:
    """Keys of `paramwise_cfg`; see `LearningRateDecayOptimizerConstructor`."""

    num_layers: PositiveInt
    decay_rate: PositiveFloat
    decay_type: str = "layer_wise"


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Groups of one depth each, with `lr * decay_rate ** (num_layers + 1 - depth)`; the head has the full rate.

    The depth is read off a parameter's name, by the naming of the published backbones: ConvNeXt's
    `downsample_layers.S` and `stages.S.B`, and `layers.N` of BEiT, MAE and VisionTransformer (identified by the class
    name of `model.backbone`). One-dimensional parameters and biases have no weight decay. Frozen ones are left out.

    Args:
        optim_wrapper_cfg: The wrapper's dict.
        paramwise_cfg: `num_layers` of the backbone, `decay_rate`, and `decay_type`: `layer_wise` (default; a
            longer name that contains it counts too) or `stage_wise`.
    """

    def _validate_cfg(self) -> None:
        self._decay = read_section(LayerDecayCfg, self.paramwise_cfg, "paramwise_cfg")
        for key, value in (("lr", self.base_lr), ("weight_decay", self.base_wd)):
            if value is None:
                raise InputError(f"layer decay needs optim_wrapper.optimizer.{key}")

    def add_params(
        self, params: list[Group], module: nn.Module, prefix: str = "", is_dcn_module: bool | None = None
    ) -> None:
        """Add a group for each depth, and within it one with weight decay and one without.

        Args:
            params: Groups so far; added to.
            module: The model.
            prefix: Not used.
            is_dcn_module: Not used.
        """
        depth_of = self._depth_rule(module)
        layers, rate = self._decay.num_layers, self._decay.decay_rate
        groups: dict[str, Group] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            decays = param.ndim != 1 and not name.endswith(".bias")
            depth = depth_of(name, layers)
            title = f"layer_{depth}_{'decay' if decays else 'no_decay'}"
            if title not in groups:
                scale = rate ** (layers + 1 - depth)
                groups[title] = {
                    "params": [],
                    "weight_decay": self.base_wd if decays else 0.0,
                    "lr_scale": scale,
                    "group_name": title,
                    "lr": scale * self.base_lr,
                }
            groups[title]["params"].append(param)
        for title, group in groups.items():
            MMLogger.get_current_instance().info(
                "%s: %d parameters, lr=%g (times %g), weight_decay=%g",
                title,
                len(group["params"]),
                group["lr"],
                group["lr_scale"],
                group["weight_decay"],
            )
        params.extend(groups.values())

    def _depth_rule(self, model: nn.Module) -> Callable[[str, int], int]:
        kind = self._decay.decay_type
        wanted = "layer_wise" if "layer_wise" in kind else kind
        backbone = type(getattr(model, "backbone", None)).__name__
        rule = next((rule for (part, how), rule in DEPTHS.items() if part in backbone and how == wanted), None)
        if rule is None:
            known = ", ".join(f"{how} of {part}" for part, how in DEPTHS)
            raise InputError(f"paramwise_cfg: no layer decay {kind!r} for the backbone {backbone}; there are {known}")
        return rule
