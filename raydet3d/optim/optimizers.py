"""Register all optimizers of the installed torch, and build them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor
from torch.optim import Optimizer

from raydet3d.config import PartCfg
from raydet3d.errors import InputError
from raydet3d.optim.param_groups import Group
from raydet3d.registry import OPTIMIZERS

# MMEngine's name for torch's own Adafactor, which leaves the plain name to another library's.
ALIASES = {"Adafactor": "TorchAdafactor"}


def _register_torch_optimizers() -> list[str]:
    """Register torch's optimizers; a name that a user has registered before stays theirs."""
    names = []
    for name, thing in vars(torch.optim).items():
        if isinstance(thing, type) and issubclass(thing, Optimizer) and thing is not Optimizer:
            for key in dict.fromkeys((name, ALIASES.get(name, name))):
                with suppress(KeyError):
                    OPTIMIZERS.register_module(name=key, module=thing)
                    names.append(key)
    return names


TORCH_OPTIMIZERS = _register_torch_optimizers()


def param_group_settings(kind: object) -> list[str] | None:
    """Return what a param group of an optimizer may set: the arguments of its constructor but the parameters.

    Args:
        kind: The optimizer's registered name, or its class.

    Returns:
        None where the optimizer is not known, or takes any argument.
    """
    cls = OPTIMIZERS.get(kind) if isinstance(kind, str) and kind in OPTIMIZERS else kind
    if not callable(cls):
        return None
    _, *parameters = inspect.signature(cls).parameters.values()
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return None
    # Schedules of the momentum add that field to every param group, also to those of Adam's betas.
    return [*(p.name for p in parameters), "momentum"]


def build_optimizer(cfg: PartCfg, params: Iterable[Tensor] | list[Group]) -> Optimizer:
    """Build an optimizer; its first argument takes the parameters, whatever its name.

    Args:
        cfg: `dict(type=, lr=, ...)`.
        params: Parameters, or param groups.
    """
    kind = cfg.get("type")
    cls = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    first = next(iter(inspect.signature(cls).parameters), "params") if callable(cls) else "params"
    try:
        optimizer: Optimizer = OPTIMIZERS.build({**cfg, first: params})
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        if not getattr(cls, "__module__", "").startswith("torch."):
            raise  # a user's own optimizer: its traceback says more than one line
        raise InputError(f"{getattr(cls, '__name__', kind)}: {error}") from error
    return optimizer
