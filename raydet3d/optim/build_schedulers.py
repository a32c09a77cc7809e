"""Build schedulers from `param_scheduler=[...]`, for one optimizer or for several."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from raydet3d.config import PartCfg
from raydet3d.config.provenance import config_context
from raydet3d.errors import InputAssertionError, InputError, InputTypeError
from raydet3d.optim.multi_optim_wrapper import OptimWrapperDict
from raydet3d.optim.schedule import AnyOptimizer, CurveScheduler, ParamScheduler
from raydet3d.optim.wrapper import OptimWrapper
from raydet3d.registry import PARAM_SCHEDULERS, BadArgument, Registry, build_from_cfg

SchedulersCfg: TypeAlias = PartCfg | Sequence[object] | None
"""One scheduler's config, or a list of configs and ready objects."""


def build_param_scheduler(
    cfg: SchedulersCfg | Mapping[str, SchedulersCfg],
    optim_wrapper: OptimWrapper,
    *,
    epoch_length: int,
    max_epochs: int | None,
    max_iters: int | None,
) -> Any:
    """Build the schedulers of a config, in its order; each takes its first tick here.

    Args:
        cfg: One scheduler's dict, a list of them (ready objects pass through), or None. For several optimizers: that
            for each of them, or a dict of it by the optimizers' names.
        optim_wrapper: What they act on.
        epoch_length: Iterations of one epoch, for `convert_to_iter_based`.
        max_epochs: Where a scheduler without `end` ends that ticks by epoch.
        max_iters: Where one ends that ticks by iteration.

    Returns:
        The schedulers; for several optimizers a dict of lists by their names.

    Raises:
        InputError: A config that makes no scheduler; the message names its place in the list.
    """
    build = partial(build_list, epoch_length=epoch_length, max_epochs=max_epochs, max_iters=max_iters)
    by_name: Mapping[str, Any] | None = cfg if isinstance(cfg, Mapping) and "type" not in cfg else None
    shared: Any = cfg
    if not isinstance(optim_wrapper, OptimWrapperDict):
        if by_name is not None:
            raise InputError(
                f"param_scheduler is a dict of {', '.join(map(repr, by_name))} and has no 'type'; schedulers by name "
                "are for several optimizers (OptimWrapperDict), for one write a list of dict(type=...)"
            )
        return build(shared, optim_wrapper, key="param_scheduler")
    if by_name is not None and set(by_name) != set(optim_wrapper):
        raise InputError(
            f"param_scheduler is for {', '.join(by_name) or 'nothing'} and the optimizers are "
            f"{', '.join(optim_wrapper)}: name each of them ([] is no schedule)"
        )
    return {
        name: build(shared, wrapper, key="param_scheduler")
        if by_name is None
        else build(by_name[name], wrapper, key=f"param_scheduler.{name}")
        for name, wrapper in optim_wrapper.items()
    }


def build_list(
    cfg: SchedulersCfg,
    optim_wrapper: OptimWrapper,
    *,
    key: str,
    epoch_length: int,
    max_epochs: int | None,
    max_iters: int | None,
) -> list[Any]:
    """Build the schedulers of one optimizer.

    Args:
        cfg: One scheduler's dict, a list of them, or None.
        optim_wrapper: What they act on.
        key: The config's, for messages.
        epoch_length: Iterations of one epoch.
        max_epochs: Where a scheduler without `end` ends that ticks by epoch.
        max_iters: Where one ends that ticks by iteration.
    """
    if cfg is None:
        return []
    items = [cfg] if isinstance(cfg, (Mapping, str)) or not isinstance(cfg, Sequence) else list(cfg)
    built = []
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            if not callable(getattr(item, "step", None)):
                raise InputTypeError(f"{key}[{i}] must be a scheduler or a dict with a 'type', got {item!r}")
            built.append(item)
            continue
        args = dict(item)
        end = max_epochs if args.get("by_epoch", True) else max_iters
        lasts = end is not None and args.get("end") is None
        if lasts:
            args["end"] = end
        with config_context(f"{key}[{i}]"):
            made = PARAM_SCHEDULERS.build(args, {"optimizer": optim_wrapper, "epoch_length": epoch_length})
        if isinstance(made, CurveScheduler):
            made.lasts_all_iters = lasts and not made.by_epoch and made.epoch_length is None
        built.append(made)
    return built


def build_scheduler(
    cfg: PartCfg, registry: Registry, default_args: Mapping[str, AnyOptimizer | int] | None = None
) -> ParamScheduler:
    """Build one scheduler; this is what `PARAM_SCHEDULERS.build` calls.

    Args:
        cfg: `dict(type=..., ...)`; with `convert_to_iter_based`, its durations are epochs and it ticks by iteration.
        registry: The registry of the type.
        default_args: `optimizer`, and `epoch_length` for the conversion.

    Raises:
        InputAssertionError: The conversion lacks an `epoch_length`, or the scheduler ticks by iteration already.
    """
    if not isinstance(cfg, Mapping):
        raise BadArgument(f"a param scheduler is built from a dict with a 'type', got {cfg!r}")
    args: dict[str, Any] = {**(default_args or {}), **cfg}
    convert, length = args.pop("convert_to_iter_based", False), args.pop("epoch_length", None)
    if convert:
        kind = args.get("type")
        cls = registry.get(kind) if isinstance(kind, str) else kind
        convert = getattr(cls, "build_iter_from_epoch", None)
        if cls is None or convert is None:
            raise InputError(f"{kind} cannot be converted to iterations")
        if length is None:
            raise InputAssertionError("convert_to_iter_based needs epoch_length, the iterations of an epoch")
        build: Any = partial(convert, epoch_length=length)
        build.__name__, build.__signature__ = cls.__name__, inspect.signature(cls)
        args["type"] = build
    scheduler: ParamScheduler = build_from_cfg(args, registry)
    return scheduler


PARAM_SCHEDULERS.build_func = build_scheduler
