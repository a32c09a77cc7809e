"""`SyncBuffersHook`: average model buffers, such as BatchNorm statistics, over ranks."""

from __future__ import annotations

from raydet3d.dist import all_reduce, unwrapped
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Average floating-point buffers over ranks after each training epoch, and before validations within an epoch.

    Without this hook, validation and checkpoints use the statistics of rank 0, which cover only that rank's samples.
    Integer buffers (`num_batches_tracked`) are equal on all ranks and not averaged. Priority NORMAL: before
    `CheckpointHook`.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self._is_done = False

    def after_train_epoch(self, runner: RunContext) -> None:
        """Average the buffers."""
        self._average(runner)
        self._is_done = True

    def before_train_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """Mark the buffers as no longer averaged, since the step changes them."""
        self._is_done = False

    def before_val_epoch(self, runner: RunContext) -> None:
        """Average the buffers, unless no step was taken since the last average."""
        if not self._is_done:
            self._average(runner)

    def _average(self, runner: RunContext) -> None:
        if not runner.distributed:
            return
        for buffer in unwrapped(runner.model).buffers():
            if buffer.is_floating_point():
                all_reduce(buffer, "mean")
