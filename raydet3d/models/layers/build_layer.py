"""Layers from config dicts, by mmcv's function names: convolution, normalization, upsampling, activation.

A type is one of the tables below or any module that is registered in `MODELS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from raydet3d.config import ConfigValue
from raydet3d.errors import InputError
from raydet3d.models.layers.batch_norm2d import BatchNorm2d
from raydet3d.models.layers.deconv import Deconv
from raydet3d.models.module import ConfigType
from raydet3d.registry import MODELS

NORMS: dict[str, type[nn.Module]] = {
    "BN": BatchNorm2d,
    "BN1d": nn.BatchNorm1d,
    "BN2d": BatchNorm2d,
    "BN3d": nn.BatchNorm3d,
    "SyncBN": nn.SyncBatchNorm,
    "GN": nn.GroupNorm,
    "LN": nn.LayerNorm,
    "IN": nn.InstanceNorm2d,
    "IN1d": nn.InstanceNorm1d,
    "IN2d": nn.InstanceNorm2d,
    "IN3d": nn.InstanceNorm3d,
}
CONVS: dict[str, type[nn.Module]] = {"Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d, "Conv": nn.Conv2d}
UPSAMPLES: dict[str, type[nn.Module]] = {"deconv": Deconv, "deconv3d": nn.ConvTranspose3d}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "RReLU": nn.RReLU,
    "ReLU6": nn.ReLU6,
    "ELU": nn.ELU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Swish": nn.SiLU,
    "Mish": nn.Mish,
    "HSwish": nn.Hardswish,
    "HSigmoid": nn.Hardsigmoid,
}
_INPLACE = {"ReLU", "LeakyReLU", "RReLU", "ReLU6", "ELU", "SiLU", "Mish", "HSwish"}
# Names of layers in their parent, as mmcv abbreviates them.
_ABBREVIATIONS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.modules.batchnorm._BatchNorm, "bn"),
    (nn.GroupNorm, "gn"),
    (nn.LayerNorm, "ln"),
    (nn.modules.instancenorm._InstanceNorm, "in"),
)


def build_norm_layer(cfg: ConfigType, num_features: int, postfix: int | str = "") -> tuple[str, nn.Module]:
    """Build a normalization layer.

    Args:
        cfg: `dict(type='BN', eps=1e-3, momentum=0.01, requires_grad=True)`; `requires_grad=False` freezes its weights.
        num_features: Channels to normalize.
        postfix: Appended to the layer's name.

    Returns:
        The name of the layer for its parent ("bn", "gn", ... and the postfix), and the layer.
    """
    layer_type, args = _split(cfg, NORMS, "norm_cfg")
    requires_grad = args.pop("requires_grad", True)
    settings = {"eps": 1e-5, **args}
    if layer_type is nn.GroupNorm:
        if "num_groups" not in settings:
            raise InputError("norm_cfg: type 'GN' needs num_groups")
        norm: nn.Module = layer_type(num_channels=num_features, **settings)
    else:
        norm = layer_type(num_features, **settings)
    for parameter in norm.parameters():
        parameter.requires_grad = requires_grad
    # Instance normalization derives from the class of batch normalization, so that the last match counts.
    name = [short for kind, short in _ABBREVIATIONS if isinstance(norm, kind)]
    return f"{name[-1] if name else 'norm'}{postfix}", norm


def build_conv_layer(cfg: ConfigType | None, *args: object, **kwargs: object) -> nn.Module:
    """Build a convolution from `dict(type='Conv2d', bias=False)`; keyword arguments override the dict's."""
    layer_type, settings = _split(cfg or {"type": "Conv2d"}, CONVS, "conv_cfg")
    return layer_type(*args, **{**settings, **kwargs})


def build_upsample_layer(cfg: ConfigType, *args: ConfigValue, **kwargs: ConfigValue) -> nn.Module:
    """Build an upsampling layer from `dict(type='deconv', bias=False)`; 'nearest' and 'bilinear' interpolate."""
    if cfg.get("type") in ("nearest", "bilinear"):
        settings = {key: value for key, value in {**cfg, **kwargs}.items() if key != "type"}
        align = {"align_corners": settings.pop("align_corners", False)} if cfg["type"] == "bilinear" else {}
        return nn.Upsample(
            scale_factor=settings.get("scale_factor"), size=settings.get("size"), mode=cfg["type"], **align
        )
    layer_type, settings = _split(cfg, UPSAMPLES, "upsample_cfg")
    return layer_type(*args, **{**settings, **kwargs})


def build_activation_layer(cfg: ConfigType, *, inplace: bool | None = None) -> nn.Module:
    """Build an activation from `dict(type='ReLU')`.

    Args:
        cfg: Type and arguments.
        inplace: Write over the input, where the activation can and the config does not say.
    """
    layer_type, settings = _split(cfg, ACTIVATIONS, "act_cfg")
    if inplace is not None and str(cfg.get("type")) in _INPLACE:
        settings = {"inplace": inplace, **settings}
    return layer_type(**settings)


def check_same_length(owner: str, **lists: Sequence[ConfigValue]) -> None:
    """Raise `InputError` unless the lists of a module's arguments have the same length."""
    if len({len(values) for values in lists.values()}) != 1:
        lengths = ", ".join(f"{key} has {len(values)}" for key, values in lists.items())
        raise InputError(f"{owner}: these lists have one entry per stage, but {lengths}")


def _split(cfg: ConfigType, table: Mapping[str, type[nn.Module]], key: str) -> tuple[type[nn.Module], dict[str, Any]]:
    """Look up the class that a config dict names; return it and the other settings."""
    args = dict(cfg)
    given = args.pop("type", "")
    if isinstance(given, type):
        return given, args
    name = str(given).rsplit(".", 1)[-1]
    found = table.get(name) or (MODELS.get(name) if name in MODELS else None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(table)}"
        raise InputError(f"{key}: unknown type {name!r}; {hint}")
    return found, args
