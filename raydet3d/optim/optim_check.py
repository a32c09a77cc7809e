"""Check `optim_wrapper` and `param_scheduler` before a model, data or a cluster exist."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from raydet3d.config import Config, ConfigValue, PartCfg
from raydet3d.config.provenance import config_context
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.optim.build_schedulers import SchedulersCfg, build_list, build_param_scheduler
from raydet3d.optim.constructor import build_optim_wrapper
from raydet3d.optim.wrapper import OptimWrapper
from raydet3d.registry import OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS, Registry

# Classes that may be built here; a user's own may do anything when it is built.
HARMLESS = ("torch.", "raydet3d.")
# Lists of one value per param group, which only the model knows.
PER_GROUP = ("eta_max", "min_value")


def check_optimization(cfg: Config) -> None:
    """Build optimizer, wrapper and schedulers for a model of one weight, to find errors in their configs.

    Args:
        cfg: The whole config.

    Raises:
        InputError: What is wrong, by its key.
    """
    given = cfg.get("optim_wrapper")
    if given is None:
        return
    with _quietly():
        wrapper = _try_wrapper(given)
        loop = cfg.get("train_cfg") or {}
        limits = {key: loop[key] if isinstance(loop.get(key), int) else None for key in ("max_epochs", "max_iters")}
        schedule = cfg.get("param_scheduler")
        if not isinstance(schedule, Mapping) or "type" in schedule:
            _try_schedule(schedule, wrapper, "param_scheduler", limits)
        elif wrapper is not None:
            build_param_scheduler(schedule, wrapper, epoch_length=1, **limits)  # one optimizer: it says what is wrong
        else:
            for name, some in schedule.items():
                _try_schedule(some, None, f"param_scheduler.{name}", limits)


def _try_wrapper(given: PartCfg | OptimWrapper) -> OptimWrapper | None:
    """Return the wrapper of a model of one weight; None if classes of the user's would have to be built."""
    if not isinstance(given, Mapping) or given.get("constructor") is not None:
        return None
    if given and all(isinstance(value, OptimWrapper) for value in given.values()):
        return None
    optimizer = given.get("optimizer")
    kinds = [(OPTIM_WRAPPERS, given.get("type", "OptimWrapper"), "optim_wrapper")]
    if isinstance(optimizer, Mapping):
        kinds.append((OPTIMIZERS, optimizer.get("type"), "optim_wrapper.optimizer"))
    if not all(_is_harmless(table, kind, key) for table, kind, key in kinds):
        return None
    with config_context("optim_wrapper"):
        # Two dimensions, since some optimizers want matrices.
        return build_optim_wrapper(nn.Linear(1, 1, bias=False), given)


def _try_schedule(given: SchedulersCfg, wrapper: OptimWrapper | None, key: str, limits: dict[str, int | None]) -> None:
    stand_in = wrapper or OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9))
    items: list[Any] = [given] if isinstance(given, Mapping) else list(given or [])
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            continue
        is_harmless = _is_harmless(PARAM_SCHEDULERS, item.get("type"), f"{key}[{i}]")
        # Without the config's optimizer, the other fields of the param groups are not known.
        if not is_harmless or (wrapper is None and not str(item["type"]).endswith("LR")):
            items[i] = stand_in  # passes through, as ready objects do
            continue
        first = {name: item[name][0] for name in PER_GROUP if isinstance(item.get(name), (list, tuple)) and item[name]}
        items[i] = {**item, **first}
    build_list(items, stand_in, key=key, epoch_length=1000, **limits)


def _is_harmless(table: Registry, kind: ConfigValue, key: str) -> bool:
    """Return whether a type is torch's or ours; refuse an unknown name."""
    with config_context(key):
        if kind is None:
            raise InputError("needs a 'type'")
        cls = table.get(kind) if isinstance(kind, str) else kind
    return isinstance(cls, type) and cls.__module__.startswith(HARMLESS)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the log."""
    logger = get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
