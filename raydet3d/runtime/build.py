"""Builders of a run's parts, each from the config keys that describe it. `Runner` calls them in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import nn

from raydet3d import dist
from raydet3d.config import Config
from raydet3d.config.provenance import config_context
from raydet3d.config.section_schemas import EnvCfg
from raydet3d.config.type_check import read_section
from raydet3d.dist import unwrapped
from raydet3d.errors import InputAssertionError, InputError, InputTypeError
from raydet3d.hooks.base import Hook, Hooks
from raydet3d.hooks.context import DataLoader, EvalLoop, PartCfg, RunContext, TrainLoop
from raydet3d.optim import OptimWrapper, build_optim_wrapper
from raydet3d.registry import (
    EVALUATOR,
    LOG_PROCESSORS,
    LOOPS,
    MODEL_WRAPPERS,
    MODELS,
    VISUALIZERS,
)
from raydet3d.runtime.ddp import check_optimizers, from_sync_bn, is_sharded, needs_all_ranks, to_sync_bn
from raydet3d.runtime.evaluator import Evaluator
from raydet3d.runtime.loaders import Loaders, build_dataloader
from raydet3d.runtime.log_processor import LogProcessor
from raydet3d.runtime.model_parts import find_parts
from raydet3d.runtime.validate import TRIPLES, hook_cfgs, loop_cfg, refuse_deleted_optimizer
from raydet3d.visual import Visualizer


class LaunchArgs(TypedDict, total=False):
    """What the launcher decides about a run, beside its config.

    Keys:
        device: Where to run; a GPU if there is one, by default.
        extra_hooks: Hooks of the launcher.
        timestamp: Name of this start; the time, by default.
        resume: True resumes from the newest checkpoint of the work dir, and begins afresh (with `load_from`, if given)
            where there is none; a path resumes from that file. Else the config says.
        run: With `resume=True`, name of the run in the work dir to resume; by default the one that saved last.
        retry: Resume from the newest checkpoint that this start (`timestamp`) has written; where there is none, do as
            `resume` says.
        batch_workers: Number of ranks whose batches make one iteration, whatever the number of live ranks. By default
            what the checkpoint to resume from says, else the number of live ranks.
    """

    device: torch.device | str | None
    extra_hooks: Sequence[Hook]
    timestamp: str | None
    resume: bool | str
    run: str
    retry: bool
    batch_workers: int | None


LAUNCH: ContextVar[LaunchArgs] = ContextVar("launch", default={})  # noqa: B039 - it is never modified


@contextmanager
def launching(launch: LaunchArgs) -> Iterator[None]:
    """Use these arguments, if any are given, for the run that is built in the block.

    They are not arguments of `Runner`, so that a subclass with MMEngine's arguments need not pass them on.
    """
    token = LAUNCH.set(launch or LAUNCH.get())
    try:
        yield
    finally:
        LAUNCH.reset(token)


def _check_type(given: object, kind: type, requirement: str) -> None:
    """Refuse a part of another type than `kind`.

    Raises:
        InputTypeError: It has another type.
    """
    if not isinstance(given, kind):
        raise InputTypeError(f"{requirement}, got {given!r}")


# -- the model --------------------------------------------------------------------------------------------------


def build_model(cfg: PartCfg) -> nn.Module:
    """Build the model, on the host, with its data preprocessor.

    Args:
        cfg: The config: `model` and `data_preprocessor` are read.
    """
    given = with_data_preprocessor(cfg)
    if isinstance(given, nn.Module):
        return given
    _check_type(given, Mapping, "model must be an nn.Module or a dict with a 'type'")
    with config_context("model"):
        model = MODELS.build(dict(given))
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {given['type']!r} does not make an nn.Module")
    return model


def with_data_preprocessor(cfg: PartCfg) -> nn.Module | PartCfg:
    """Return `model` of a config, with its `data_preprocessor` where the model's dict has none of its own."""
    given: nn.Module | PartCfg = cfg["model"]
    if cfg.get("data_preprocessor") is None or not isinstance(given, Mapping):
        return given
    return {"data_preprocessor": cfg["data_preprocessor"], **given}


def wrap_model(model: nn.Module, cfg: PartCfg, device: torch.device) -> nn.Module:
    """Wrap the model for training in several processes; with one process, return it without a wrapper.

    Args:
        model: The model, on its device.
        cfg: The config: `sync_bn`, `model_wrapper_cfg` and `find_unused_parameters` are read.
        device: The device.
    """
    sync_bn = cfg.get("sync_bn")
    if dist.get_world_size() == 1:
        return from_sync_bn(model)
    if sync_bn:
        model = to_sync_bn(model, sync_bn)
    defaults: dict[str, Any] = {
        "type": "MMDistributedDataParallel",
        "module": model,
        "device_ids": [device] if device.type == "cuda" else None,
        "broadcast_buffers": False,
        "find_unused_parameters": bool(cfg.get("find_unused_parameters", False)),
    }
    with config_context("model_wrapper_cfg"):
        wrapped = MODEL_WRAPPERS.build(cfg.get("model_wrapper_cfg") or {}, defaults)
    assert isinstance(wrapped, nn.Module)
    return wrapped


def check_ranks(model: nn.Module, hooks: Hooks, batch_workers: int) -> None:
    """Refuse what does not work with the model's wrapper: hooks that copy it, and shares of unequal size.

    Raises:
        InputError: There is such a hook, or the ranks would run unequal numbers of batches and wait for each other.
    """
    if is_sharded(model):
        for hook in hooks:
            if hook.copies_model:
                raise InputError(
                    f"{type(hook).__name__} needs a copy of the model, which {type(model).__name__} cannot give it"
                )
    world = dist.get_world_size()
    if world < batch_workers and batch_workers % world and needs_all_ranks(model):
        raise InputError(
            f"an iteration is the batches of {batch_workers} workers, and {world} would do unequal numbers of them, at "
            "which a sharded model or sync_bn would wait forever; start a number that divides it, or begin anew with "
            "another one"
        )


def finish_model(model: nn.Module, cfg: PartCfg) -> None:
    """Apply activation checkpointing and compilation to a model whose weights are in place.

    Args:
        model: The model, in its wrapper or not.
        cfg: The config: `activation_checkpointing` and `compile` are read.
    """
    if names := cfg.get("activation_checkpointing"):
        from raydet3d.runtime.activation_checkpoint import checkpoint_activations

        checkpoint_activations(unwrapped(model), names)
    given = cfg.get("compile") or False
    if given is False:
        return
    with config_context("compile"):
        options = dict(given) if isinstance(given, Mapping) else {}
        whole = unwrapped(model)
        names = options.pop("parts", None)
        parts = find_parts(whole, names, "compile.parts") if names else [whole]
        try:
            for part in parts:
                # In place: names in checkpoints stay as they are, and a wrapper's hooks stay outside of the graph.
                part.compile(**options)
        except (RuntimeError, ValueError) as error:  # an unknown back end or mode
            raise InputError(str(error).splitlines()[0]) from None


# -- hooks and logs ---------------------------------------------------------------------------------------------


def build_hooks(cfg: PartCfg, extra_hooks: Sequence[Hook] = ()) -> Hooks:
    """Build the default hooks, the config's own, and add the launcher's."""
    hooks = Hooks()
    register_hooks(hooks, hook_cfgs(cfg.get("default_hooks"), cfg.get("custom_hooks")))
    for hook in extra_hooks:
        hooks.register(hook)
    return hooks


def register_hooks(hooks: Hooks, cfgs: Sequence[tuple[str, Hook | PartCfg]]) -> None:
    """Register hooks, or those that are built from configs.

    Args:
        hooks: Where.
        cfgs: (config key, hook or config) pairs.
    """
    for key, given in cfgs:
        with config_context(key):
            hooks.register(given)


def build_log_processor(given: LogProcessor | PartCfg | None) -> LogProcessor:
    """Build the log processor."""
    if isinstance(given, LogProcessor):
        return given
    _check_type(given or {}, Mapping, "log_processor must be a LogProcessor or a dict")
    with config_context("log_processor"):
        made: LogProcessor = LOG_PROCESSORS.build(given or {}, {"type": "LogProcessor"})
    return made


def build_visualizer(given: Visualizer | PartCfg | None, *, save_dir: Path) -> Visualizer:
    """Build the visualizer, which writes below `save_dir`."""
    if isinstance(given, Visualizer):
        return given
    _check_type(given or {}, Mapping, "visualizer must be a Visualizer or a dict")
    default = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    with config_context("visualizer"):
        made: Visualizer = VISUALIZERS.build(given or default, {"name": "visualizer", "save_dir": str(save_dir)})
    return made


# -- optimization -----------------------------------------------------------------------------------------------


def build_optim(cfg: PartCfg, model: nn.Module) -> OptimWrapper:
    """Build the optimizer in its wrapper.

    Args:
        cfg: The config: `optim_wrapper` is read.
        model: The model, in its wrapper or not.
    """
    given = cfg.get("optim_wrapper")
    if given is None:
        raise InputError(f"the config has nothing to train with: no {', '.join(TRIPLES['train'])}")
    refuse_deleted_optimizer(cfg)
    with config_context("optim_wrapper"):
        wrapper: OptimWrapper = build_optim_wrapper(unwrapped(model), given)
    check_optimizers(model, wrapper)
    return wrapper


def lr_ratio(auto_scale_lr: PartCfg | None, batch_size: int) -> float | None:
    """Return the factor of `auto_scale_lr`; None where it is not enabled.

    Args:
        auto_scale_lr: `dict(enable=, base_batch_size=)`, or None.
        batch_size: Samples of one iteration over all ranks; 0 if unknown.
    """
    if not auto_scale_lr or not auto_scale_lr.get("enable", False):
        return None
    base = auto_scale_lr.get("base_batch_size")
    if isinstance(base, bool) or not isinstance(base, int) or base < 1:
        raise InputAssertionError(f"auto_scale_lr.base_batch_size must be an integer of at least 1, got {base!r}")
    if not batch_size:
        raise InputError(
            "auto_scale_lr needs train_dataloader.batch_size, or a batch sampler that has an attribute batch_size"
        )
    return batch_size / base


# -- loops ------------------------------------------------------------------------------------------------------


def build_evaluator(given: Evaluator | PartCfg | Sequence[PartCfg], *, key: str = "val_evaluator") -> Evaluator:
    """Build the evaluator of a metric's config, of a list of them, or of its own config."""
    if isinstance(given, Evaluator):
        return given
    with config_context(key):
        if isinstance(given, Mapping) and "metrics" in given:
            made = EVALUATOR.build(given, {"type": "Evaluator"})
        else:
            made = EVALUATOR.build({"type": "Evaluator", "metrics": given})
    assert isinstance(made, Evaluator)
    return made


def _start_method(cfg: PartCfg) -> str | None:
    """Return how loader workers start."""
    return read_section(EnvCfg, cfg.get("env_cfg"), "env_cfg").mp_cfg.mp_start_method


def build_train_loop(
    given: TrainLoop | PartCfg, runner: RunContext, loader_cfg: DataLoader | PartCfg, *, batch_workers: int
) -> TrainLoop:
    """Build the training loop with its data loader.

    Args:
        given: `train_cfg` of the config, or a loop.
        runner: The run.
        loader_cfg: `train_dataloader` of the config, or a data loader.
        batch_workers: Number of ranks whose batches make one iteration.
    """
    if hasattr(given, "run"):
        return cast("TrainLoop", given)
    _check_type(given, Mapping, "train_cfg must be a loop or a dict")
    assert isinstance(given, Mapping)
    with config_context("train_cfg"):
        args = loop_cfg(given, "train")
    loader = build_dataloader(
        loader_cfg,
        seed=runner.seed,
        mp_start_method=_start_method(runner.cfg),
        key="train_dataloader",
        batch_workers=batch_workers,
    )
    with config_context("train_cfg"):
        loop: TrainLoop = LOOPS.build(args, {"runner": runner, "dataloader": loader})
    return loop


def build_eval_loop(given: EvalLoop | PartCfg, mode: str, runner: RunContext) -> EvalLoop:
    """Build the validation or test loop with its data loader, or loaders, and an evaluator for each.

    Args:
        given: `val_cfg` or `test_cfg` of the config, or a loop.
        mode: `val` or `test`.
        runner: The run; its config's data loader and evaluator of the mode are read.
    """
    if hasattr(given, "run"):
        return cast("EvalLoop", given)
    _check_type(given, Mapping, f"{mode}_cfg must be a loop or a dict")
    assert isinstance(given, Mapping)
    key, loader_cfg, evaluator_cfg = f"{mode}_dataloader", runner.cfg[f"{mode}_dataloader"], f"{mode}_evaluator"
    with config_context(f"{mode}_cfg"):
        args = loop_cfg(given, mode)
    make = partial(build_dataloader, seed=runner.seed, mp_start_method=_start_method(runner.cfg))
    loader: DataLoader | Loaders
    evaluators: list[Evaluator]
    if isinstance(loader_cfg, (list, tuple)):
        evaluators = _build_evaluators(runner.cfg[evaluator_cfg], len(loader_cfg), evaluator_cfg)
        loader = Loaders([make(one, key=f"{key}[{i}]") for i, one in enumerate(loader_cfg)])
    else:
        evaluators = [build_evaluator(runner.cfg[evaluator_cfg], key=evaluator_cfg)]
        loader = make(loader_cfg, key=key)
    for metric in (metric for evaluator in evaluators for metric in evaluator.metrics):
        metric.logger = runner.logger
    evaluator = evaluators if isinstance(loader, Loaders) else evaluators[0]
    with config_context(f"{mode}_cfg"):
        loop: EvalLoop = LOOPS.build(args, {"runner": runner, "dataloader": loader, "evaluator": evaluator})
    return loop


def _build_evaluators(given: Sequence[PartCfg], count: int, key: str) -> list[Evaluator]:
    """Build one evaluator for each of several loaders."""
    if not isinstance(given, (list, tuple)) or len(given) != count:
        what = f"a list of {len(given)}" if isinstance(given, (list, tuple)) else "one"
        raise InputError(f"{key} must be a list of {count}, one for each loader, got {what}")
    return [build_evaluator(one, key=f"{key}[{i}]") for i, one in enumerate(given)]


# -- the run ----------------------------------------------------------------------------------------------------


def merge_arguments(cfg: PartCfg | None, arguments: PartCfg) -> Config:
    """Return the config of a run: `cfg` with the arguments of `Runner` in their places.

    Args:
        cfg: The config, or None.
        arguments: Arguments by name, as they were given; None leaves the config's value.
    """
    config = cfg if isinstance(cfg, Config) else Config(cfg or {})
    changed = {key: value for key, value in arguments.items() if value is not None and value is not config.get(key)}
    if not changed:
        return config
    return Config({**config, **changed}, filename=config.filename, origin=config.origin)


def text_of(cfg: Config) -> str:
    """Return the config as text; an empty string where it holds live objects."""
    try:
        return str(cfg.pretty_text)
    except InputError:
        return ""
