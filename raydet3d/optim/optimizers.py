"""Fills the table of optimizers with every one that the installed torch has, under its own name."""

from __future__ import annotations

import inspect

import torch

from raydet3d.registry import OPTIMIZERS

# MMEngine's name for torch's own Adafactor, which leaves the plain name to another library's.
ALIASES = {"Adafactor": "TorchAdafactor"}


def _register_torch_optimizers() -> list[str]:
    """Enter torch's optimizers; a name that a user took before stays theirs."""
    names = []
    for name, thing in vars(torch.optim).items():
        if not inspect.isclass(thing) or not issubclass(thing, torch.optim.Optimizer):
            continue
        if thing is torch.optim.Optimizer:
            continue
        for key in (name, *([ALIASES[name]] if name in ALIASES else [])):
            try:
                OPTIMIZERS.register_module(name=key, module=thing)
            except KeyError:
                continue
            names.append(key)
    return names


TORCH_OPTIMIZERS = _register_torch_optimizers()
