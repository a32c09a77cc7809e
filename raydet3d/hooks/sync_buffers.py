"""``SyncBuffersHook``: the ranks' buffers (BatchNorm's statistics) become their mean."""

from __future__ import annotations

from raydet3d.dist import all_reduce, unwrapped
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Averages floating-point buffers over ranks after each epoch of training, and before a validation amid one.

    Without it rank 0's statistics are taken for validation and checkpoints, which saw one rank's samples only. Counts
    (``num_batches_tracked``) are the same on every rank and left alone. Priority NORMAL: before ``CheckpointHook``.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self._is_done = False

    def after_train_epoch(self, runner: RunContext) -> None:
        """Average."""
        self._average(runner)
        self._is_done = True

    def before_train_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """From here on they differ again."""
        self._is_done = False

    def before_val_epoch(self, runner: RunContext) -> None:
        """Average, unless nothing was trained since."""
        if not self._is_done:
            self._average(runner)

    def _average(self, runner: RunContext) -> None:
        if not runner.distributed:
            return
        for buffer in unwrapped(runner.model).buffers():
            if buffer.is_floating_point():
                all_reduce(buffer, "mean")
