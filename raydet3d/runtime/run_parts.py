"""`RunParts`: builds the parts of a run in order, from a config or from MMEngine's arguments, and holds them.

The order: checked config, process group, device, work dir and log folder; what the run begins with (checkpoint, seed),
logger, history, log processor, hooks, visualizer, model on its device, model wrapper, checkpoint stores, scalar log,
counts. At first use: the loops with their data loaders and evaluators, the optimizer in its wrapper, the schedulers.
"""

from __future__ import annotations

import itertools
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, Self, Unpack, cast

import torch
from torch import nn

from raydet3d import __version__, dist
from raydet3d.config import Config
from raydet3d.dist import unwrapped
from raydet3d.errors import InputError, InputRuntimeError, InputTypeError
from raydet3d.files import set_aside
from raydet3d.hooks.base import STAGES, Hook, Hooks, global_batch_size
from raydet3d.hooks.context import DataLoader, EvalLoop, PartCfg, RunContext, Schedulers, TrainLoop
from raydet3d.log import open_logger
from raydet3d.optim import OptimWrapper, Schedule, build_param_scheduler
from raydet3d.runtime import build
from raydet3d.runtime.build import LAUNCH, LaunchArgs, launching
from raydet3d.runtime.evaluator import Evaluator
from raydet3d.runtime.history import History
from raydet3d.runtime.loaders import build_dataloader, num_batch_workers
from raydet3d.runtime.log_processor import LogProcessor
from raydet3d.runtime.model_parts import freeze_parts
from raydet3d.runtime.progress import Phase, Progress
from raydet3d.runtime.rng import RngState
from raydet3d.runtime.run_checkpoints import RunCheckpoints
from raydet3d.runtime.run_setup import (
    ResumeInfo,
    checkpoint_root,
    make_log_dir,
    pick_device,
    remove_empty_dirs,
    resolve_batch_workers,
    resolve_resume,
    resolve_seed,
    work_dir_and_name,
)
from raydet3d.runtime.scalar_log import ScalarLog
from raydet3d.runtime.validate import TRIPLES, check_sections, custom_hook_cfgs, default_hook_cfgs
from raydet3d.visual import Visualizer

_NUMBERS = itertools.count()  # tells the loggers of runs of one process apart, whose names and times are equal


class RunParts:
    """The parts of a run. `Runner` runs them.

    Each part may be given as a config or as an object. Loops, data loaders, optimizer and schedulers are built when
    they are first used: a run that only tests builds none of what training needs.

    Args:
        model: The model.
        work_dir: Folder of the run, or a URI; by default `work_dirs/` and the config file's name.
        train_dataloader: Data loader for training; given together with `train_cfg` and `optim_wrapper`.
        val_dataloader: Data loader for validation; given together with `val_cfg` and `val_evaluator`.
        test_dataloader: Data loader for testing; given together with `test_cfg` and `test_evaluator`.
        train_cfg: The training loop.
        val_cfg: The validation loop.
        test_cfg: The test loop.
        auto_scale_lr: `dict(enable=, base_batch_size=)`: scale learning rates with the batch size.
        optim_wrapper: The optimizer in its wrapper.
        param_scheduler: The schedulers of learning rate, momentum and other settings.
        val_evaluator: Metrics of a validation.
        test_evaluator: Metrics of a test.
        default_hooks: Hooks by name, in place of the default ones or added to them.
        custom_hooks: Further hooks.
        data_preprocessor: Data preprocessor of a model that names none.
        load_from: Checkpoint whose weights training begins with, or which is scored.
        resume: Whether to resume from the newest checkpoint of the work dir; a path resumes from that file.
        launcher: `none`, or `pytorch` to join the process group that torchrun's environment describes.
        env_cfg: `cudnn_benchmark`, `mp_cfg` and `dist_cfg`.
        log_processor: Formats the history for the log.
        log_level: Least level that rank 0 prints.
        visualizer: Takes scalars and pictures.
        default_scope: Accepted as an argument of MMEngine's; names are looked up in all of our registries.
        randomness: `seed`, `diff_rank_seed` and `deterministic`.
        experiment_name: Name of the run; the config file's by default.
        cfg: The whole config; other arguments take precedence.
    """

    def __init__(
        self,
        model: nn.Module | PartCfg | None = None,
        work_dir: str | Path | None = None,
        train_dataloader: DataLoader | PartCfg | None = None,
        val_dataloader: DataLoader | PartCfg | Sequence[PartCfg] | None = None,
        test_dataloader: DataLoader | PartCfg | Sequence[PartCfg] | None = None,
        train_cfg: TrainLoop | PartCfg | None = None,
        val_cfg: EvalLoop | PartCfg | None = None,
        test_cfg: EvalLoop | PartCfg | None = None,
        auto_scale_lr: PartCfg | None = None,
        optim_wrapper: OptimWrapper | PartCfg | None = None,
        param_scheduler: PartCfg | Sequence[object] | None = None,
        val_evaluator: Evaluator | PartCfg | Sequence[PartCfg] | None = None,
        test_evaluator: Evaluator | PartCfg | Sequence[PartCfg] | None = None,
        default_hooks: Mapping[str, Hook | PartCfg] | None = None,
        custom_hooks: Sequence[Hook | PartCfg] | None = None,
        data_preprocessor: nn.Module | PartCfg | None = None,
        load_from: str | None = None,
        resume: bool | str | None = None,
        launcher: str | None = None,
        env_cfg: PartCfg | None = None,
        log_processor: LogProcessor | PartCfg | None = None,
        log_level: str | None = None,
        visualizer: Visualizer | PartCfg | None = None,
        default_scope: str | None = None,
        randomness: PartCfg | None = None,
        experiment_name: str | None = None,
        cfg: PartCfg | None = None,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "cfg", "__class__")}
        launch = LAUNCH.get()
        self.cfg: Config = build.merge_arguments(cfg, arguments)
        sections = check_sections(self.cfg)
        self.deterministic: bool = sections.randomness.deterministic
        if sections.env_cfg.cudnn_benchmark and not self.deterministic:
            torch.backends.cudnn.benchmark = True
        self.setup_env(self.cfg.get("env_cfg") or {})
        self.device: torch.device = pick_device(launch.get("device"))
        self.work_dir, self.name = work_dir_and_name(self.cfg)
        self._found_work_dir = self.work_dir.is_dir()
        self.timestamp: str = make_log_dir(self.work_dir, launch.get("timestamp"))
        self.log_dir: Path = self.work_dir / self.timestamp
        self.experiment_name: str = f"{self.name}_{self.timestamp}"
        try:
            self._build(launch)
        except BaseException:
            remove_empty_dirs(self.work_dir, self.timestamp, keep_work_dir=self._found_work_dir)
            raise

    def _build(self, launch: LaunchArgs) -> None:
        """Build what every run needs, in order."""
        cfg, home = self.cfg, checkpoint_root(self.cfg)
        resume = launch.get("resume", False)
        retry, run = launch.get("retry", False), launch.get("run", "")
        start = resolve_resume(cfg, resume, home, self.timestamp, retry=retry, run=run)
        self._resume_info: ResumeInfo | None = start  # what training has yet to begin with
        self.seed: int = resolve_seed(cfg, start)
        self.logger: logging.Logger = self.build_logger(cfg.get("log_level", "INFO"))
        if (resume or cfg.get("resume")) and start.resume_from is None:
            self.logger.warning("no checkpoint to resume from in %s: the run begins afresh", home)
        self.message_hub: History = self.build_message_hub()
        self.log_processor: LogProcessor = self.build_log_processor(cfg.get("log_processor"))
        self._hooks = Hooks()
        self.register_hooks(cfg.get("default_hooks"), cfg.get("custom_hooks"))
        for hook in launch.get("extra_hooks", ()):
            self.register_hook(hook)
        self.visualizer: Visualizer = self.build_visualizer(cfg.get("visualizer"))
        self.model: nn.Module = self.build_model(build.with_data_preprocessor(cfg))
        freeze_parts(self.model, cfg.get("frozen_parts") or ())
        self.model = self.wrap_model(cfg.get("model_wrapper_cfg"), self.model.to(self.device))
        self.batch_workers: int = launch.get("batch_workers") or resolve_batch_workers(cfg, start)
        build.check_ranks(self.model, self._hooks, self.batch_workers)
        self.cfg_text: str = build.text_of(cfg)
        self.run_name: str = ((start.state or {}).get("meta") or {}).get("run") or self.experiment_name
        self.checkpoints = RunCheckpoints(
            self.work_dir, home, run=self.run_name, start=self.timestamp, seed=self.seed, logger=self.logger
        )
        self.scalar_log = ScalarLog(self.work_dir / "scalars.json")
        self.progress = Progress()
        self.training_rng: RngState | None = None
        self.is_resuming: bool = False
        self._has_first_weights = False  # initialised, or set by the user
        self._has_scored_weights = False  # those that a validation or a test is to see
        self._is_finished = False  # whether activation checkpointing and compilation are applied
        self._is_introduced = self._is_config_dumped = False

    @classmethod
    def from_cfg(cls, cfg: PartCfg, **launch: Unpack[LaunchArgs]) -> Self:
        """Make a run of this class from a config.

        Args:
            cfg: The config.
            **launch: What the launcher decides.
        """
        names = list(signature(RunParts).parameters)
        with launching(launch):
            return cls(**{name: cfg.get(name) for name in names if name != "cfg"}, cfg=cfg)

    # -- building parts: override these in a subclass -----------------------------------------------------------

    def setup_env(self, env_cfg: PartCfg) -> None:
        """Join torchrun's process group, if the launcher is `pytorch`, torchrun started this and no group exists."""
        torchrun = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()
        if self.cfg.get("launcher") == "pytorch" and torchrun and not dist.is_distributed():
            dist.join_torchrun(env_cfg.get("dist_cfg"))

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | Path | None = None, **kwargs: object
    ) -> logging.Logger:
        """Open the run's logger; lines are kept back until all parts of the run exist.

        Args:
            log_level: Least level that rank 0 prints.
            log_file: File of the lines; by default in the log folder.
            **kwargs: Accepted as arguments of MMEngine's.
        """
        file = Path(log_file) if log_file else self.log_dir / f"{self.timestamp}.log"
        name = f"{self.name}-{self.timestamp}-{next(_NUMBERS)}"
        return open_logger(name, file, rank=self.rank, level=log_level, held=True)

    def build_message_hub(self, message_hub: PartCfg | None = None) -> History:
        """Make the history, in which scalars and facts of the run are kept.

        Args:
            message_hub: `dict(name=...)`; the experiment's name by default.
        """
        if message_hub is not None and not isinstance(message_hub, Mapping):
            raise InputTypeError(f"message_hub must be a dict, got {message_hub!r}")
        return History((message_hub or {}).get("name", self.experiment_name))

    def build_log_processor(self, log_processor: LogProcessor | PartCfg | None) -> LogProcessor:
        """Build the log processor."""
        return build.build_log_processor(log_processor)

    def build_visualizer(self, visualizer: Visualizer | PartCfg | None = None) -> Visualizer:
        """Build the visualizer, which writes below the log folder."""
        return build.build_visualizer(visualizer, save_dir=self.log_dir)

    def build_model(self, model: nn.Module | PartCfg) -> nn.Module:
        """Build the model on the host."""
        return build.build_model({"model": model})

    def wrap_model(self, model_wrapper_cfg: PartCfg | None, model: nn.Module) -> nn.Module:
        """Wrap the model for training in several processes."""
        return build.wrap_model(model, {**self.cfg, "model_wrapper_cfg": model_wrapper_cfg}, self.device)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | PartCfg, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a data loader. `diff_rank_seed` has no effect: each sample has a seed of its own."""
        return build_dataloader(dataloader, seed=0 if seed is None else seed)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | PartCfg | None) -> OptimWrapper:
        """Build the optimizer in its wrapper."""
        return build.build_optim({**self.cfg, "optim_wrapper": optim_wrapper}, self.model)

    def build_param_scheduler(self, scheduler: PartCfg | Sequence[object] | None) -> Schedulers:
        """Build the schedulers of the optimizer's settings."""
        schedulers: Schedulers = build_param_scheduler(
            scheduler,
            self.optim_wrapper,
            epoch_length=len(self.train_dataloader),
            max_epochs=self.max_epochs,
            max_iters=self.max_iters,
        )
        return schedulers

    def build_evaluator(self, evaluator: Evaluator | PartCfg | Sequence[PartCfg]) -> Evaluator:
        """Build an evaluator."""
        return build.build_evaluator(evaluator, key="evaluator")

    def build_train_loop(self, loop: TrainLoop | PartCfg) -> TrainLoop:
        """Build the training loop and its data loader."""
        return build.build_train_loop(
            loop, self._context, self.cfg["train_dataloader"], batch_workers=self.batch_workers
        )

    def build_val_loop(self, loop: EvalLoop | PartCfg) -> EvalLoop:
        """Build the validation loop, its data loader and its evaluator."""
        return build.build_eval_loop(loop, "val", self._context)

    def build_test_loop(self, loop: EvalLoop | PartCfg) -> EvalLoop:
        """Build the test loop, its data loader and its evaluator."""
        return build.build_eval_loop(loop, "test", self._context)

    @property
    def _context(self) -> RunContext:
        """This run, which is a `Runner`, for hooks and loops."""
        return cast("RunContext", self)

    # -- parts built at first use -------------------------------------------------------------------------------

    @cached_property
    def train_loop(self) -> TrainLoop:
        """The training loop."""
        if self.cfg.get("train_cfg") is None:
            raise InputRuntimeError(f"the config has nothing to train with: no {', '.join(TRIPLES['train'])}")
        return self.build_train_loop(self.cfg["train_cfg"])

    @cached_property
    def val_loop(self) -> EvalLoop | None:
        """The validation loop; None where the config has none."""
        return None if self.cfg.get("val_cfg") is None else self.build_val_loop(self.cfg["val_cfg"])

    @cached_property
    def test_loop(self) -> EvalLoop | None:
        """The test loop; None where the config has none."""
        return None if self.cfg.get("test_cfg") is None else self.build_test_loop(self.cfg["test_cfg"])

    @cached_property
    def optim_wrapper(self) -> OptimWrapper:
        """The optimizer in its wrapper."""
        wrapper = self.build_optim_wrapper(self.cfg.get("optim_wrapper"))
        wrapper.on_grad_norm(self.message_hub.update_scalar, "train/")
        self.scale_lr(wrapper, self.cfg.get("auto_scale_lr"))
        return wrapper

    @cached_property
    def param_schedulers(self) -> Schedulers:
        """The schedulers, in the config's order."""
        return self.build_param_scheduler(self.cfg.get("param_scheduler"))

    @cached_property
    def schedule(self) -> Schedule:
        """All schedulers of the run, advanced together."""
        return Schedule(self.param_schedulers)

    # -- facts --------------------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return dist.get_world_size()

    @property
    def distributed(self) -> bool:
        """Whether there are several processes."""
        return self.world_size > 1

    @property
    def launcher(self) -> str:
        """`pytorch` if there are several processes, however they were started; else `none`."""
        return "pytorch" if self.distributed else "none"

    @property
    def model_name(self) -> str:
        """Name of the model's class."""
        return type(unwrapped(self.model)).__name__

    @property
    def is_training(self) -> bool:
        """Whether this run trains; false for a validation or a test on its own."""
        return "train_loop" in vars(self)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return self.progress.epoch

    @property
    def iter(self) -> int:
        """Number of finished iterations."""
        return self.progress.iter

    @property
    def max_epochs(self) -> int | None:
        """Epochs to train; None where nothing trains, or neither loop nor config says."""
        return self._training_length("max_epochs")

    @property
    def max_iters(self) -> int | None:
        """Iterations to train; None where nothing trains, or neither loop nor config says."""
        return self._training_length("max_iters")

    def _training_length(self, name: str) -> int | None:
        """Return an attribute of the training loop; before that is built, the config's value."""
        if (loop := vars(self).get("train_loop")) is not None:
            return getattr(loop, name, None)
        given = self.cfg.get("train_cfg")
        return given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)

    @property
    def val_interval(self) -> int:
        """Epochs or iterations from one validation to the next, as it holds now."""
        return int(self.train_loop.val_interval)

    @property
    def val_begin(self) -> int:
        """First epoch or iteration that may be followed by a validation."""
        return int(self.train_loop.val_begin)

    @property
    def train_dataloader(self) -> Any:
        """Batches for training."""
        return self.train_loop.dataloader

    @property
    def val_dataloader(self) -> Any:
        """Batches for validation; None where the config has none."""
        return None if self.val_loop is None else self.val_loop.dataloader

    @property
    def test_dataloader(self) -> Any:
        """Batches for testing; None where the config has none."""
        return None if self.test_loop is None else self.test_loop.dataloader

    @property
    def val_evaluator(self) -> Any:
        """Evaluator of a validation (a list for several data loaders); None where the config has none."""
        return None if self.val_loop is None else self.val_loop.evaluator

    @property
    def test_evaluator(self) -> Any:
        """Evaluator of a test (a list for several data loaders); None where the config has none."""
        return None if self.test_loop is None else self.test_loop.evaluator

    # -- hooks --------------------------------------------------------------------------------------------------

    @property
    def hooks(self) -> list[Hook]:
        """The hooks in calling order."""
        return list(self._hooks)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks at a stage."""
        if fn_name == "after_train_iter":  # for loops of the user's own too: a checkpoint from now on has the step
            self.progress.phase = Phase.ITER
        self._hooks.call(self._context, fn_name, **kwargs)

    def register_hook(self, hook: Hook | PartCfg, priority: str | int | None = None) -> None:
        """Add a hook, or one built from its config, which may have a `priority`."""
        self._hooks.register(hook, priority)

    def register_default_hooks(self, hooks: Mapping[str, Hook | PartCfg] | None = None) -> None:
        """Add the default hooks, with the given ones in their places."""
        build.register_hooks(self._hooks, default_hook_cfgs(hooks))

    def register_custom_hooks(self, hooks: Sequence[Hook | PartCfg] | None) -> None:
        """Add further hooks."""
        build.register_hooks(self._hooks, custom_hook_cfgs(hooks))

    def register_hooks(
        self,
        default_hooks: Mapping[str, Hook | PartCfg] | None = None,
        custom_hooks: Sequence[Hook | PartCfg] | None = None,
    ) -> None:
        """Add the default and further hooks."""
        self.register_default_hooks(default_hooks)
        self.register_custom_hooks(custom_hooks)

    def get_hooks_info(self) -> str:
        """Return the hooks of each stage, in calling order, as lines of text."""
        return self._hooks.table()

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: PartCfg | None = None) -> None:
        """Multiply learning rates by global batch size / `base_batch_size`, if `auto_scale_lr` is enabled.

        The batch size is the batch sampler's. `accumulative_counts` does not count, as in MMEngine.

        Args:
            optim_wrapper: The wrapper, before schedulers are built for it.
            auto_scale_lr: `dict(enable=, base_batch_size=)`.
        """
        loader = self.train_dataloader if auto_scale_lr else None
        samples = global_batch_size(loader) if loader is not None else 0
        ratio = build.lr_ratio(auto_scale_lr, samples)
        if ratio is None or loader is None or auto_scale_lr is None:
            return
        base, workers = auto_scale_lr["base_batch_size"], num_batch_workers(loader)
        self.logger.info(
            "learning rates times %g: batch size %d x %d processes over %d", ratio, samples // workers, workers, base
        )
        counts = getattr(optim_wrapper, "accumulative_counts", 1)
        if counts > 1:
            self.logger.info(
                "auto_scale_lr does not count accumulative_counts=%d; base_batch_size=%g would", counts, base / counts
            )
        optim_wrapper.scale_lr(ratio)

    def _introduce(self, mode: str) -> None:
        """Log what runs.

        Args:
            mode: `train`, `val` or `test`: hooks of the other stages are left out, but for a training.
        """
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor() or "CPU"
        self.logger.info(
            "raydet3d %s, Python %s, torch %s, %d process(es) on %s, %d torch threads each, seed %d",
            __version__,
            platform.python_version(),
            torch.__version__,
            self.world_size,
            name,
            torch.get_num_threads(),
            self.seed,
        )
        if self.batch_workers != self.world_size:
            self.logger.info(
                "an iteration is the batches of %d workers, shared by the %d that are here",
                self.batch_workers,
                self.world_size,
            )
        stages = [stage for stage in STAGES if mode == "train" or stage.split("_")[1] in ("run", "load", mode)]
        self.logger.info("Hooks of each stage, in order (with their priorities):\n%s", self._hooks.table(stages))

    def dump_config(self) -> None:
        """Write the config into the work dir."""
        if self.rank != 0 or not self.cfg_text:
            if self.rank == 0:
                self.logger.warning("the config holds live objects, so it is not written to a file")
            return
        stem = Path(self.cfg.filename).name if self.cfg.filename else "config.py"
        if (self.work_dir / stem).is_dir():
            set_aside(self.work_dir / stem)
        try:
            self.cfg.dump(self.work_dir / stem)
        except InputError as error:  # the config is python: the language of a file of another kind may hold less
            self.logger.warning("%s; it is kept as %s", error, Path(stem).with_suffix(".py"))
            self.cfg.dump(self.work_dir / Path(stem).with_suffix(".py"))
        self.visualizer.add_config(self.cfg)
