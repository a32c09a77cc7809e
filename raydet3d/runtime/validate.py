"""Check a config's sections against each other and against the loops before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from raydet3d.config.config_dict import DELETE
from raydet3d.config.provenance import config_context
from raydet3d.config.section_schemas import RunConfig, read_run_config
from raydet3d.errors import InputError, InputRuntimeError, InputTypeError
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import PartCfg
from raydet3d.registry import LOOPS, check_constructor
from raydet3d.runtime.consistency import check_consistency

TRIPLES = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}
DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "guard": {"type": "GuardHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
}
DefaultHooks: TypeAlias = Mapping[str, Hook | PartCfg | None] | None
CustomHooks: TypeAlias = Sequence[Hook | PartCfg] | None
_GIVEN = ("runner", "dataloader", "evaluator")


def check_sections(cfg: PartCfg) -> RunConfig:
    """Check what can be checked without building anything, and return the typed view of the config.

    Raises:
        InputError: Parts of training, validation or testing are missing, or a section has an unknown key or a value of
            the wrong type or range, or two sections contradict each other.
    """
    model = cfg.get("model")
    if not isinstance(model, Mapping) and not callable(model):  # a module that is already built is callable
        raise InputError("the config has no model=dict(type=...)")
    run = read_run_config(cfg)
    for mode, names in TRIPLES.items():
        there = [name for name in names if cfg.get(name) is not None]
        if there and len(there) < 3:
            absent = ", ".join(name for name in names if name not in there)
            raise InputError(f"the config has {' and '.join(there)} but no {absent}: all three or none")
        if len(there) == 3 and not hasattr(cfg[f"{mode}_cfg"], "run"):  # a loop that is already built has it
            key = f"{mode}_cfg"
            with config_context(key):
                _check_arguments(loop_cfg(cfg[key], mode))
    refuse_deleted_optimizer(cfg)
    check_consistency(cfg)
    return run


def refuse_deleted_optimizer(cfg: PartCfg) -> None:
    """Refuse an `optim_wrapper` whose `_delete_` removed the inherited optimizer without giving another one.

    Raises:
        InputError: That is so; the message names file and line of the `_delete_`.
    """
    given = cfg.get("optim_wrapper")
    where = getattr(getattr(cfg, "origin", None), "lines", {}).get(f"optim_wrapper.{DELETE}")
    if where and isinstance(given, Mapping) and not given.get("optimizer") and not given.get("constructor"):
        raise InputError(
            f"{where}: optim_wrapper has no optimizer: this {DELETE}=True removed the inherited one; "
            "add optimizer=dict(type=..., lr=...)"
        )


def loop_cfg(cfg: object, mode: str) -> dict[str, Any]:
    """Return a loop's config with its type.

    Args:
        cfg: `train_cfg`, `val_cfg` or `test_cfg`.
        mode: `train`, `val` or `test`.
    """
    if not isinstance(cfg, Mapping):
        raise InputTypeError(f"must be a dict, got {cfg!r}")
    out = dict(cfg)
    if mode != "train":
        out.setdefault("type", f"{mode.capitalize()}Loop")
    elif "type" in out and "by_epoch" in out:
        raise InputRuntimeError("has both type and by_epoch, which both select the loop; remove one")
    elif "type" not in out:
        out["type"] = "EpochBasedTrainLoop" if out.pop("by_epoch", True) else "IterBasedTrainLoop"
    return out


def hook_cfgs(default_hooks: DefaultHooks, custom_hooks: CustomHooks) -> list[tuple[str, Hook | PartCfg]]:
    """Return all hooks in registration order, each with its config key."""
    return [*default_hook_cfgs(default_hooks), *custom_hook_cfgs(custom_hooks)]


def default_hook_cfgs(default_hooks: DefaultHooks) -> list[tuple[str, Hook | PartCfg]]:
    """Return the default hooks, each with its config key.

    A dict in the config replaces the default as a whole; None removes it; other names are added.

    Args:
        default_hooks: Of the config.
    """
    given = dict(default_hooks or {})
    out: list[tuple[str, Hook | PartCfg]] = []
    for name, ours in DEFAULT_HOOKS.items():
        mine = given.pop(name, ours)
        if mine is not None:
            out.append((f"default_hooks.{name}", mine))
    for name, mine in given.items():
        if mine is None:
            raise InputError(f"default_hooks.{name}: there is no default hook of this name to disable")
        out.append((f"default_hooks.{name}", mine))
    return out


def custom_hook_cfgs(custom_hooks: CustomHooks) -> list[tuple[str, Hook | PartCfg]]:
    """Return the custom hooks, each with its config key."""
    return [(f"custom_hooks[{i}]", mine) for i, mine in enumerate(custom_hooks or ())]


def _check_arguments(cfg: PartCfg) -> None:
    """Refuse wrong, unknown and missing arguments of a loop without building it."""
    kind = cfg["type"]
    loop = LOOPS.get(kind) if isinstance(kind, str) else kind
    given = {name: None for name in _GIVEN if name in inspect.signature(loop).parameters}
    check_constructor(LOOPS, loop, {**given, **{key: value for key, value in cfg.items() if key != "type"}})
