"""`ProfilerHook`: profile the first iterations or the first epoch with `torch.profiler`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import profiler

from raydet3d.config.type_check import PositiveInt, checked
from raydet3d.errors import InputError, InputTypeError
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, PartCfg, RunContext
from raydet3d.registry import HOOKS

R = TypeVar("R")
TraceHandler: TypeAlias = Callable[[profiler.profile], object]


@HOOKS.register_module()
class ProfilerHook(Hook):
    """Run `torch.profiler` over the first iterations or epoch of this start of the run, on CPU or GPU.

    Profiling slows down training, so remove the hook from production runs. Priority VERY_LOW.

    Args:
        by_epoch: Profile one epoch rather than a number of iterations.
        profile_times: Number of iterations to profile; must be 1 with `by_epoch`.
        activity_with_cpu: Record CPU activity.
        activity_with_cuda: Record CUDA activity.
        schedule: Arguments of `torch.profiler.schedule` (`wait`, `warmup`, `active`, ...).
        on_trace_ready: `dict(type='log_trace', ...)` writes a table to the log (arguments of `table`: `sort_by`,
            `row_limit`); `dict(type='tb_trace', ...)` writes traces for TensorBoard's profiler (`dir_name`, relative
            to the log folder, `worker_name`, `use_gzip`); or a function that takes the profiler.
        record_shapes: Record the shapes of operator inputs.
        profile_memory: Record memory allocations and deallocations.
        with_stack: Record source file and line of operators.
        with_flops: Estimate the FLOPs of matrix multiplications and convolutions.
        json_trace_path: File for a trace in Chrome's trace format.
    """

    priority = "VERY_LOW"

    @checked
    def __init__(
        self,
        *,
        by_epoch: bool = True,
        profile_times: PositiveInt = 1,
        activity_with_cpu: bool = True,
        activity_with_cuda: bool = False,
        schedule: PartCfg | None = None,
        on_trace_ready: TraceHandler | PartCfg | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        json_trace_path: str | None = None,
    ) -> None:
        if by_epoch and profile_times > 1:
            raise InputError(
                f"ProfilerHook: by_epoch=True profiles one epoch, got profile_times={profile_times}; for a number of "
                "iterations say by_epoch=False"
            )
        if not (activity_with_cpu or activity_with_cuda):
            raise InputError("ProfilerHook: nothing to record; set activity_with_cpu or activity_with_cuda")
        if activity_with_cuda and not torch.cuda.is_available():
            raise InputError("ProfilerHook: activity_with_cuda=True, but there is no GPU here")
        self.by_epoch = by_epoch
        self.profile_times = profile_times
        kinds = profiler.ProfilerActivity
        self.activities = [kinds.CPU] * activity_with_cpu + [kinds.CUDA] * activity_with_cuda
        self.schedule = _made("schedule", profiler.schedule, schedule) if schedule is not None else None
        self.on_trace_ready = on_trace_ready
        self.options: dict[str, Any] = {
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
            "with_flops": with_flops,
        }
        self.json_trace_path = json_trace_path
        self._seen = 0
        self._profiler: profiler.profile | None = None
        if isinstance(on_trace_ready, Mapping):
            kind = on_trace_ready.get("type")
            if kind not in ("log_trace", "tb_trace"):
                raise InputError(f"ProfilerHook: on_trace_ready.type must be log_trace or tb_trace, got {kind!r}")
            if kind == "tb_trace" and json_trace_path is not None:
                raise InputError("ProfilerHook: a trace is written once: give on_trace_ready or json_trace_path")
        elif on_trace_ready is not None and not callable(on_trace_ready):
            raise InputError(f"ProfilerHook: on_trace_ready must be a dict or a function, got {on_trace_ready!r}")

    def before_train(self, runner: RunContext) -> None:
        """Start the profiler."""
        left = (runner.max_iters or 0) - runner.iter
        if not self.by_epoch and left < self.profile_times:
            raise InputError(f"ProfilerHook: profile_times={self.profile_times}, but only {left} iterations are left")
        self._seen = 0
        self._profiler = profiler.profile(
            activities=self.activities, schedule=self.schedule, on_trace_ready=self._handler(runner), **self.options
        )
        self._profiler.start()
        runner.logger.info("profiling %s", "an epoch" if self.by_epoch else f"the next {self.profile_times} iterations")

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Advance the profiler's schedule; stop after `profile_times` iterations."""
        if self._profiler is None:
            return
        self._seen += 1
        if self.schedule is not None:
            self._profiler.step()
        if not self.by_epoch and self._seen >= self.profile_times:
            self._end(runner)

    def after_train_epoch(self, runner: RunContext) -> None:
        """Stop the profiler."""
        self._end(runner)

    def after_run(self, runner: RunContext) -> None:
        """Stop the profiler if training ended early."""
        self._end(runner)

    def _end(self, runner: RunContext) -> None:
        if self._profiler is None:
            return
        ended, self._profiler = self._profiler, None
        ended.stop()
        runner.logger.info("profiled %d iterations", self._seen)
        if self.json_trace_path is not None and runner.rank == 0:
            path = Path(self.json_trace_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            ended.export_chrome_trace(str(path))
            runner.logger.info("trace in Chrome's format: %s", path)

    def _handler(self, runner: RunContext) -> TraceHandler | None:
        """Return the profiler's `on_trace_ready` callback."""
        given = self.on_trace_ready
        if not isinstance(given, Mapping):
            return given
        args = dict(given)
        if args.pop("type") == "log_trace":
            return lambda done: runner.logger.info("%s", done.key_averages().table(**args))
        folder = Path(runner.log_dir) / args.pop("dir_name", "tf_tracing_logs")  # or absolute
        runner.logger.info("traces for TensorBoard: %s", folder)
        made: TraceHandler = _made(
            "on_trace_ready", profiler.tensorboard_trace_handler, {"dir_name": str(folder), **args}
        )
        return made


def _made(name: str, function: Callable[..., R], args: PartCfg) -> R:
    """Call a function of `torch.profiler` with arguments from the config.

    Raises:
        InputError: The function does not accept the arguments.
    """
    try:
        return function(**args)
    except (TypeError, AssertionError) as error:
        raise InputTypeError(f"ProfilerHook: {name}: {str(error) or f'{dict(args)} will not do'}") from None
