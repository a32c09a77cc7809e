"""From a config to the parts of a run: the only place where the config's keys are read.

Reading ``assemble`` from top to bottom is reading the order in which a run is made. What is cheap to check comes first.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydet3d import __version__, dist
from raydet3d.config.provenance import config_context
from raydet3d.errors import InputError
from raydet3d.files import set_aside
from raydet3d.hooks.base import Hook, Hooks
from raydet3d.log import open_logger
from raydet3d.optim import OptimWrapper, build_optim_wrapper, build_param_scheduler
from raydet3d.registry import (
    EVALUATOR,
    LOG_PROCESSORS,
    LOOPS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    VISUALIZERS,
    Registry,
)
from raydet3d.runtime.activation_checkpoint import recompute
from raydet3d.runtime.ddp import from_sync_bn, refuse_several, to_sync_bn, unwrapped
from raydet3d.runtime.evaluator import Evaluator
from raydet3d.runtime.fsdp import asks_others, is_sharded_model, refuse_hooks
from raydet3d.runtime.loaders import Loaders, build_dataloader, check_data
from raydet3d.runtime.parts import Makers
from raydet3d.runtime.run_setup import (
    apply_env,
    checkpoint_root,
    make_log_dir,
    pick_device,
    remove_empty_dirs,
    resolve_batch_workers,
    resolve_resume,
    resolve_seed,
    work_dir_and_name,
)
from raydet3d.runtime.runner import Runner
from raydet3d.runtime.validate import TRIPLES, check_sections, hook_cfgs, loop_cfg, refuse_deleted_optimizer

__all__ = [
    "assemble",
    "build_dataloader",
    "build_evaluator",
    "build_hooks",
    "build_model",
    "build_optim",
    "build_runner",
    "build_schedulers",
    "build_visualizer",
    "check_data",
    "check_sections",
    "finish_model",
    "wrap_model",
]

_NUMBERS = itertools.count()  # tells runners of one process apart, where names and seconds are the same


def assemble(
    cfg: Any,
    *,
    device: torch.device | str | None = None,
    extra_hooks: Sequence[Hook] = (),
    timestamp: str | None = None,
    resume: bool | str = False,
    run: str = "",
    retry: bool = False,
    batch_workers: int | None = None,
) -> Runner:
    """A run from its config; also known as ``Runner.from_cfg``.

    Works in a process alone and in one of a process group that is up.

    Args:
        cfg: The config.
        device: Where to run; a GPU if there is one, by default.
        extra_hooks: Hooks of the launcher.
        timestamp: Name of this start; the time, by default.
        resume: True goes on from the newest checkpoint of the work dir, and begins afresh (with ``load_from``, if
            given) where there is none; a path goes on from that file. Else the config says.
        run: With `resume=True`, name of the run in the work dir to go on with; by default the one that saved last.
        retry: Go on from the newest checkpoint that this start (timestamp) has written; where there is none, as
            ``resume`` says.
        batch_workers: Number of ranks whose batches make one iteration, whatever the number of live ranks. By default
            what the checkpoint to resume from says, else the number of live ranks.
    """
    check_sections(cfg)
    device = pick_device(device)
    work_dir, name = work_dir_and_name(cfg)
    timestamp = make_log_dir(work_dir, timestamp)
    try:
        return _put_together(cfg, device, extra_hooks, work_dir, name, timestamp, resume, run, retry, batch_workers)
    except BaseException:
        remove_empty_dirs(work_dir, timestamp)
        raise


def _put_together(
    cfg: Any,
    device: torch.device,
    extra_hooks: Sequence[Hook],
    work_dir: Path,
    name: str,
    timestamp: str,
    resume: bool | str,
    run: str,
    retry: bool,
    batch_workers: int | None,
) -> Runner:
    home = checkpoint_root(cfg)
    start = resolve_resume(cfg, resume, home, timestamp, retry=retry, run=run)
    seed = resolve_seed(cfg, start)
    apply_env(cfg)

    logger = open_logger(
        f"{name}-{timestamp}-{next(_NUMBERS)}",
        work_dir / timestamp / f"{timestamp}.log",
        rank=dist.get_rank(),
        level=cfg.get("log_level", "INFO"),
        held=True,
    )
    if (resume or cfg.get("resume")) and start.resume_from is None:
        logger.warning("no checkpoint to resume from in %s: the run begins afresh", home)
    with config_context("log_processor"):
        log_processor = LOG_PROCESSORS.build(cfg.get("log_processor") or {}, {"type": "LogProcessor"})
    hooks = build_hooks(cfg, extra_hooks)
    visualizer = build_visualizer(cfg, save_dir=work_dir / timestamp)
    model = wrap_model(build_model(cfg).to(device), cfg, device)
    if is_sharded_model(model):
        refuse_hooks(hooks)

    batch_workers = batch_workers or resolve_batch_workers(cfg, start)
    world = dist.get_world_size()
    if world < batch_workers and batch_workers % world and asks_others(model):
        raise InputError(
            f"an iteration is the batches of {batch_workers} workers, and {world} would do unequal numbers of them, at "
            "which a sharded model or sync_bn waits for ever; start a number that divides it, or begin anew with "
            "another one"
        )
    full_name = f"{name}_{timestamp}"
    return Runner(
        model=model,
        device=device,
        work_dir=work_dir,
        home=home,
        timestamp=timestamp,
        name=full_name,
        run=((start.state or {}).get("meta") or {}).get("run") or full_name,
        seed=seed,
        batch_workers=batch_workers,
        hooks=hooks,
        logger=logger,
        log_processor=log_processor,
        visualizer=visualizer,
        makers=Makers(
            train_loop=partial(_make_train_loop, cfg),
            val_loop=partial(_make_eval_loop, cfg, "val"),
            test_loop=partial(_make_eval_loop, cfg, "test"),
            optim_wrapper=partial(_make_optim_wrapper, cfg),
            param_schedulers=partial(_make_schedulers, cfg),
            introduce=_introduce,
            finish_model=lambda runner: finish_model(runner.model, cfg),
        ),
        start=start,
        cfg=cfg,
        cfg_text=_text_of(cfg),
    )


def build_runner(cfg: Any, registry: Registry, default_args: Mapping[str, Any] | None = None) -> Any:
    """A runner of the kind that ``runner_type`` names, for scripts that say ``RUNNERS.build(cfg)``.

    Args:
        cfg: The config.
        registry: The table of runners.
        default_args: Keys to use where the config has none.
    """
    whole = {**(default_args or {}), **cfg} if default_args else cfg
    kind: Any = registry.get(whole.get("runner_type") or "Runner")
    return kind.from_cfg(whole)


# -- parts ------------------------------------------------------------------------------------------------------


def build_model(cfg: Any) -> nn.Module:
    """The model, on the host, with its preprocessor."""
    model_cfg = dict(cfg["model"])
    if cfg.get("data_preprocessor") is not None:
        model_cfg.setdefault("data_preprocessor", cfg["data_preprocessor"])
    with config_context("model"):
        model = MODELS.build(model_cfg)
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {model_cfg['type']!r} makes no nn.Module")
    return model


def wrap_model(model: nn.Module, cfg: Any, device: torch.device) -> nn.Module:
    """The model as several processes train it; as it is, in one alone."""
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


def finish_model(model: nn.Module, cfg: Any) -> None:
    """What is done to a model whose weights are in place: activation checkpointing, and compiling.

    Args:
        model: The model, in its wrapper or not.
        cfg: The config: ``activation_checkpointing`` and ``compile`` are read.
    """
    recompute(unwrapped(model), cfg.get("activation_checkpointing") or ())
    given = cfg.get("compile") or False
    if given is False:
        return
    with config_context("compile"):
        try:
            # In place: names in checkpoints stay as they are, and a wrapper's hooks stay outside of the graph.
            unwrapped(model).compile(**(dict(given) if isinstance(given, Mapping) else {}))
        except (RuntimeError, ValueError) as error:  # an unknown back end or mode
            raise InputError(str(error).splitlines()[0]) from None


def build_hooks(cfg: Any, extra_hooks: Sequence[Hook] = ()) -> Hooks:
    """The default hooks, the config's own, and the launcher's."""
    hooks = Hooks()
    for key, given in hook_cfgs(cfg.get("default_hooks"), cfg.get("custom_hooks")):
        with config_context(key):
            hooks.register(given)
    for hook in extra_hooks:
        hooks.register(hook)
    return hooks


def build_visualizer(cfg: Any, *, save_dir: Path) -> Any:
    """The visualizer, which writes below ``save_dir``."""
    given = cfg.get("visualizer") or {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    with config_context("visualizer"):
        return VISUALIZERS.build(given, {"name": "visualizer", "save_dir": str(save_dir)})


def build_evaluator(cfg: Any, *, key: str = "val_evaluator") -> Evaluator:
    """The evaluator of a metric's config, of a list of them, or of its own config."""
    with config_context(key):
        if isinstance(cfg, Mapping) and "metrics" in cfg:
            made = EVALUATOR.build(cfg, {"type": "Evaluator"})
        else:
            made = EVALUATOR.build({"type": "Evaluator", "metrics": cfg}) if not isinstance(cfg, Evaluator) else cfg
    assert isinstance(made, Evaluator)
    return made


def build_optim(cfg: Any, model: nn.Module) -> Any:
    """The optimizer in its wrapper."""
    given = cfg["optim_wrapper"]
    if not isinstance(given, Mapping) or all(isinstance(value, OptimWrapper) for value in given.values()):
        with config_context("optim_wrapper"):
            return build_optim_wrapper(unwrapped(model), given)
    refuse_deleted_optimizer(cfg)
    with config_context("optim_wrapper"):
        if given.get("optimizer") is None and given.get("constructor") is None:
            raise InputError("has no optimizer; give it optimizer=dict(type=..., lr=...)")
        if isinstance(given.get("type"), str):
            OPTIM_WRAPPERS.get(given["type"])
    optimizer = given.get("optimizer")
    if isinstance(optimizer, Mapping):
        with config_context("optim_wrapper.optimizer"):
            if isinstance(optimizer.get("type"), str):
                OPTIMIZERS.get(optimizer["type"])
    with config_context("optim_wrapper"):
        return build_optim_wrapper(unwrapped(model), given)


def build_schedulers(
    cfg: Any, optim_wrapper: Any, epoch_length: int, *, max_epochs: int | None, max_iters: int | None
) -> Any:
    """The schedulers of learning rate, momentum and other settings."""
    return build_param_scheduler(
        cfg.get("param_scheduler"),
        optim_wrapper,
        epoch_length=epoch_length,
        max_epochs=max_epochs,
        max_iters=max_iters,
    )


def _mp_start_method(cfg: Any) -> str | None:
    mp_cfg = (cfg.get("env_cfg") or {}).get("mp_cfg") or {}
    method = mp_cfg.get("mp_start_method")
    if method not in (None, "fork", "spawn", "forkserver"):
        raise InputError(f"env_cfg.mp_cfg.mp_start_method must be fork, spawn or forkserver, got {method!r}")
    return method


# -- parts made at first use ------------------------------------------------------------------------------------


def _make_train_loop(cfg: Any, runner: Runner) -> Any:
    if cfg.get("train_dataloader") is None:
        raise InputError(f"the config has nothing to train with: no {', '.join(TRIPLES['train'])}")
    with config_context("train_cfg"):
        args = loop_cfg(cfg["train_cfg"], "train")
    loader = build_dataloader(
        cfg["train_dataloader"],
        seed=runner.seed,
        mp_start_method=_mp_start_method(cfg),
        key="train_dataloader",
        batch_workers=runner.batch_workers,
    )
    with config_context("train_cfg"):
        return LOOPS.build(args, {"runner": runner, "dataloader": loader})


def _make_eval_loop(cfg: Any, mode: str, runner: Runner) -> Any:
    if cfg.get(f"{mode}_dataloader") is None:
        return None
    with config_context(f"{mode}_cfg"):
        args = loop_cfg(cfg[f"{mode}_cfg"], mode)
    key, loader_cfg, evaluator_cfg = f"{mode}_dataloader", cfg[f"{mode}_dataloader"], cfg[f"{mode}_evaluator"]
    make = partial(build_dataloader, seed=runner.seed, mp_start_method=_mp_start_method(cfg))
    loader: Any
    evaluator: Any
    if isinstance(loader_cfg, (list, tuple)):
        evaluator = _build_evaluators(evaluator_cfg, len(loader_cfg), f"{mode}_evaluator", runner)
        loader = Loaders([make(one, key=f"{key}[{i}]") for i, one in enumerate(loader_cfg)])
    else:
        evaluator = _heard(build_evaluator(evaluator_cfg, key=f"{mode}_evaluator"), runner)
        loader = make(loader_cfg, key=key)
    with config_context(f"{mode}_cfg"):
        return LOOPS.build(args, {"runner": runner, "dataloader": loader, "evaluator": evaluator})


def _build_evaluators(cfg: Any, count: int, key: str, runner: Runner) -> list[Evaluator]:
    """One evaluator for each of several loaders."""
    if not isinstance(cfg, (list, tuple)) or len(cfg) != count:
        given = f"a list of {len(cfg)}" if isinstance(cfg, (list, tuple)) else "one"
        raise InputError(f"{key} must be a list of {count}, one for each loader, got {given}")
    return [_heard(build_evaluator(one, key=f"{key}[{i}]"), runner) for i, one in enumerate(cfg)]


def _heard(evaluator: Evaluator, runner: Runner) -> Evaluator:
    """The evaluator, whose metrics speak through the run's logger."""
    for metric in evaluator.metrics:
        metric.logger = runner.logger
    return evaluator


def _make_optim_wrapper(cfg: Any, runner: Runner) -> Any:
    if cfg.get("optim_wrapper") is None:
        raise InputError(f"the config has nothing to train with: no {', '.join(TRIPLES['train'])}")
    wrapper = build_optim(cfg, runner.model)
    refuse_several(runner.model, wrapper)
    if isinstance(wrapper, OptimWrapper):
        wrapper.on_grad_norm(runner.message_hub.update_scalar, "train/")
    runner.scale_lr(wrapper, cfg.get("auto_scale_lr"))
    return wrapper


def _make_schedulers(cfg: Any, runner: Runner) -> Any:
    loop = runner.train_loop
    return build_schedulers(
        cfg, runner.optim_wrapper, len(loop.dataloader), max_epochs=runner.max_epochs, max_iters=runner.max_iters
    )


def _text_of(cfg: Any) -> str:
    """The config as text; empty where it holds live objects, as configs made in a script may."""
    try:
        return str(getattr(cfg, "pretty_text", ""))
    except InputError:
        return ""


def _introduce(runner: Runner) -> None:
    """Say what runs, and keep the config."""
    device = (
        torch.cuda.get_device_name(runner.device) if runner.device.type == "cuda" else platform.processor() or "CPU"
    )
    runner.logger.info(
        "raydet3d %s, Python %s, torch %s, %d process(es) on %s, %d torch threads each, seed %d",
        __version__,
        platform.python_version(),
        torch.__version__,
        runner.world_size,
        device,
        torch.get_num_threads(),
        runner.seed,
    )
    if runner.batch_workers != runner.world_size:
        runner.logger.info(
            "an iteration is the batches of %d workers, shared by the %d that are here",
            runner.batch_workers,
            runner.world_size,
        )
    runner.logger.info("Hooks of each stage, in order (with their priorities):\n%s", runner.hook_table())
    if runner.rank == 0 and runner.cfg_text:
        stem = Path(runner.cfg.filename).name if runner.cfg.filename else "config.py"
        if (runner.work_dir / stem).is_dir():
            set_aside(runner.work_dir / stem)
        try:
            runner.cfg.dump(runner.work_dir / stem)
        except InputError as error:  # the text was python: the file's own language may hold less
            runner.logger.warning("%s; it is kept as %s", error, Path(stem).with_suffix(".py"))
            runner.cfg.dump(runner.work_dir / Path(stem).with_suffix(".py"))
        runner.visualizer.add_config(runner.cfg)
    elif hasattr(runner.cfg, "dump"):
        runner.logger.warning("the config holds live objects, so it is not written to a file")
