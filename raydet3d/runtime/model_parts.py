"""Parts of a model that a config names: find them, and freeze those of `frozen_parts=[...]`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from raydet3d.errors import InputError, nearest


def find_parts(model: nn.Module, names: Sequence[str], key: str) -> list[nn.Module]:
    """Return the submodules of a model that a config key names, as in `named_modules`.

    Raises:
        InputError: The model has no submodule of that name.
    """
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts or not name:
            raise InputError(f"{key}: the model has no part {name!r}{nearest(name, list(parts))}")
    return [parts[name] for name in names]


def freeze_parts(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze some submodules of a model, in place: their parameters and running statistics stay as they are.

    Args:
        model: The model, before it is wrapped.
        names: Names of the submodules, as in `named_modules`.

    Raises:
        InputError: The model has no submodule of that name, or nothing is left to train.
    """
    for part in find_parts(model, names, "frozen_parts"):
        part.requires_grad_(False)
        for module in part.modules():
            # Loops call `train()` of the whole model, and a part's modules are called one by one where it is a head.
            module.register_forward_pre_hook(_stay_in_eval_mode)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"frozen_parts={list(names)} leaves no parameter to train")


def _stay_in_eval_mode(module: nn.Module, inputs: object) -> None:
    if module.training:
        module.eval()
