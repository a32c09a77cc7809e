"""Models from a list of dicts: one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from raydet3d.registry import MODELS, Registry, build_from_cfg


def build_sequence(cfg: Any, registry: Registry, default_args: Mapping[str, Any] | None = None) -> Any:
    """A model from its dict; an ``nn.Sequential`` from a list of dicts.

    Args:
        cfg: The dict, or the list.
        registry: The table of models.
        default_args: Arguments to use where a dict gives none.
    """
    if isinstance(cfg, list | tuple):
        return nn.Sequential(*(build_from_cfg(one, registry, default_args) for one in cfg))
    return build_from_cfg(cfg, registry, default_args)


MODELS.build_func = build_sequence
