"""The config's sections before anything is built: is what belongs together there, and does each key exist?"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from raydet3d.config.config_dict import DELETE
from raydet3d.config.provenance import config_context
from raydet3d.errors import InputError, nearest
from raydet3d.registry import LOOPS, Registry

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
# Sections that are read here and there and built by nobody, so that no constructor refuses a key.
_PLAIN = {
    "auto_scale_lr": ("enable", "base_batch_size"),
    "env_cfg": ("cudnn_benchmark", "dist_cfg", "mp_cfg", "resource_limit"),
    "env_cfg.dist_cfg": ("backend", "timeout", "init_backend", "port"),
    "env_cfg.mp_cfg": ("mp_start_method", "opencv_num_threads"),
    "compile": ("fullgraph", "dynamic", "backend", "mode", "options", "disable"),
}
_GIVEN = ("runner", "dataloader", "evaluator")


def check_sections(cfg: Mapping[str, Any]) -> None:
    """Check what can be checked without building anything.

    Raises:
        InputError: Parts of training, validation or testing are missing, a loop or a plain section has a key that does
            not exist, or there is no such log level.
    """
    if not isinstance(cfg.get("model"), Mapping):
        raise InputError("the config has no model=dict(type=...)")
    for mode, names in TRIPLES.items():
        there = [name for name in names if cfg.get(name) is not None]
        if there and len(there) < 3:
            absent = ", ".join(name for name in names if name not in there)
            raise InputError(f"the config has {' and '.join(there)} but no {absent}: all three or none")
        if len(there) == 3:
            key = f"{mode}_cfg"
            with config_context(key):
                _check_arguments(LOOPS, loop_cfg(cfg[key], mode))
    refuse_deleted_optimizer(cfg)
    for section, known in _PLAIN.items():
        outer, _, inner = section.partition(".")
        given = (cfg.get(outer) or {}).get(inner) if inner else cfg.get(outer)
        for key in given if isinstance(given, Mapping) else ():
            if key not in known:
                raise InputError(f"{section} has no {key!r}{nearest(key, known) or '; it takes ' + ', '.join(known)}")
    _check_env(cfg)
    level = cfg.get("log_level", "INFO")
    if isinstance(level, str) and level not in logging.getLevelNamesMapping():
        raise InputError(f"log_level must be DEBUG, INFO, WARNING, ERROR or CRITICAL, got {level!r}")


def _check_env(cfg: Mapping[str, Any]) -> None:
    """Values of plain sections that nothing else would look at before training."""
    env = cfg.get("env_cfg") or {}
    timeout = (env.get("dist_cfg") or {}).get("timeout")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0):
        raise InputError(f"env_cfg.dist_cfg.timeout must be a number of seconds above 0, got {timeout!r}")
    names = cfg.get("activation_checkpointing")
    if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
        raise InputError(f"activation_checkpointing must be a list of names of the model's parts, got {names!r}")


def refuse_deleted_optimizer(cfg: Any) -> None:
    """Refuse an ``optim_wrapper`` whose ``_delete_`` took the inherited optimizer away and gives no other.

    Raises:
        InputError: That is so; the message names file and line of the ``_delete_``.
    """
    given = cfg.get("optim_wrapper")
    where = getattr(getattr(cfg, "origin", None), "lines", {}).get(f"optim_wrapper.{DELETE}")
    if where and isinstance(given, Mapping) and not given.get("optimizer") and not given.get("constructor"):
        raise InputError(
            f"{where}: optim_wrapper has no optimizer: this {DELETE}=True removed the inherited one; "
            "add optimizer=dict(type=..., lr=...)"
        )


def loop_cfg(cfg: Any, mode: str) -> dict[str, Any]:
    """A loop's config with its type.

    Args:
        cfg: ``train_cfg``, ``val_cfg`` or ``test_cfg``.
        mode: Which.
    """
    if not isinstance(cfg, Mapping):
        raise InputError(f"must be a dict, got {cfg!r}")
    out = dict(cfg)
    if mode != "train":
        out.setdefault("type", f"{mode.capitalize()}Loop")
    elif "type" in out and "by_epoch" in out:
        raise InputError("has both type and by_epoch; one of them says which loop it is")
    elif "type" not in out:
        out["type"] = "EpochBasedTrainLoop" if out.pop("by_epoch", True) else "IterBasedTrainLoop"
    return out


def hook_cfgs(default_hooks: Any, custom_hooks: Any) -> list[tuple[str, Any]]:
    """All hooks in registration order, each with the key it came from.

    A default hook's dict in the config replaces ours as a whole; None switches it off; a name of the config's own is
    added.

    Args:
        default_hooks: Of the config.
        custom_hooks: Of the config.
    """
    if default_hooks is not None and not isinstance(default_hooks, Mapping):
        raise InputError(f"default_hooks must be a dict of hooks by name, got {default_hooks!r}")
    given = dict(default_hooks or {})
    out: list[tuple[str, Any]] = []
    for name, ours in DEFAULT_HOOKS.items():
        mine = given.pop(name, ours)
        if mine is not None:
            out.append((f"default_hooks.{name}", mine))
    for name, mine in given.items():
        if mine is None:
            raise InputError(f"default_hooks.{name}: there is no such default hook to switch off")
        out.append((f"default_hooks.{name}", mine))
    if custom_hooks is not None and not isinstance(custom_hooks, (list, tuple)):
        raise InputError(f"custom_hooks must be a list, got {custom_hooks!r}")
    out.extend((f"custom_hooks[{i}]", mine) for i, mine in enumerate(custom_hooks or ()))
    return out


def _check_arguments(table: Registry, cfg: Mapping[str, Any]) -> None:
    """Refuse unknown and missing arguments of a loop without making it."""
    kind = cfg["type"]
    loop = table.get(kind) if isinstance(kind, str) else kind
    signature = inspect.signature(loop)
    given = {name: None for name in _GIVEN if name in signature.parameters}

    def stand_in(**_: Any) -> None:
        """Has the loop's signature and does nothing."""

    stand_in.__signature__ = signature  # type: ignore[attr-defined]
    stand_in.__name__ = getattr(loop, "__name__", str(loop))
    table.build({**given, **cfg, "type": stand_in})
