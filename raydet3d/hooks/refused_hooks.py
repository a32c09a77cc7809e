"""Register unsupported MMEngine hooks, so that building one raises an error that names the replacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from raydet3d.errors import InputError
from raydet3d.registry import HOOKS

INSTEAD = {
    "NPUProfilerHook": "profiles Ascend NPUs, on which raydet3d does not run; use ProfilerHook",
    "NaiveVisualizationHook": "draws images only; use Det3DVisualizationHook(draw=True)",
}


def _refusal(name: str, reason: str) -> Callable[..., NoReturn]:
    def refuse(**_: object) -> NoReturn:
        raise InputError(f"{name} {reason}")

    refuse.__name__ = name
    return refuse


for _name, _reason in INSTEAD.items():
    HOOKS.register_module(_name, module=_refusal(_name, _reason))
