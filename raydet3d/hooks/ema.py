"""`EMAHook`: average the model weights, and use the average for validation, testing and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from typing import Any

from torch import Tensor, nn

from raydet3d.dist import unwrapped
from raydet3d.errors import InputAssertionError, InputError
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Metrics, RunContext, StateDict
from raydet3d.registry import HOOKS, MODELS

PREFIX = "module."


@HOOKS.register_module()
class EMAHook(Hook):
    """Maintain an average of the model's weights; validation and testing use the average, training does not.

    As in MMEngine, `state_dict` of a checkpoint holds the average, and `ema_state_dict` holds the training weights (as
    `module.<name>`) and the number of updates (`steps`). A resume restores both; with `load_from`, the average is
    initialised with the loaded weights.

    Priority NORMAL: after a validation the training weights are restored before `CheckpointHook` saves.

    Args:
        ema_type: Averaged model: `ExponentialMovingAverage`, `StochasticWeightAverage`, `MomentumAnnealingEMA` or a
            custom one.
        strict_load: Raise an error if the checkpoint's names or shapes differ from the model's.
        begin_iter: First iteration (counted from 1) that is averaged; before it the average is a copy of the model.
        begin_epoch: First epoch (counted from 1) that is averaged; mutually exclusive with `begin_iter`.
        **kwargs: Arguments of the averaged model: `momentum`, `interval`, `device`, `update_buffers`, `gamma`.
    """

    priority = "NORMAL"
    copies_model = True

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        for name, value in (("begin_iter", begin_iter), ("begin_epoch", begin_epoch)):
            if value < 0:
                raise InputAssertionError(f"EMAHook: {name} must be 0 or more, got {value}")
        if begin_iter and begin_epoch:
            raise InputAssertionError("EMAHook: give begin_iter or begin_epoch, not both")
        self.strict_load = strict_load
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch
        self._cfg = {"type": ema_type, **kwargs}
        self.src_model: Any = None
        self.ema_model: Any = None

    def before_run(self, runner: RunContext) -> None:
        """Create the averaged model, unless one for this model exists, as in a test after training."""
        model = unwrapped(runner.model)
        if model is not self.src_model:
            self.src_model, self.ema_model = model, MODELS.build(self._cfg, {"model": model})

    def before_train(self, runner: RunContext) -> None:
        """Check that averaging begins before the end of training."""
        for name, begin, end in (
            ("begin_epoch", self.begin_epoch, runner.max_epochs),
            ("begin_iter", self.begin_iter, runner.max_iters),
        ):
            if end is not None and begin > end:
                raise InputAssertionError(f"EMAHook: {name}={begin} lies after the end of training ({end})")

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Update the average with the new weights."""
        if self._has_begun(runner):
            self.ema_model.update_parameters(self.src_model)
        else:
            self.ema_model.copy_from(self.src_model)

    def _has_begun(self, runner: RunContext) -> bool:
        if self.begin_epoch:
            return runner.epoch + 1 >= self.begin_epoch
        return runner.iter + 1 >= self.begin_iter

    # -- swapping the average into the model --------------------------------------------------------------------

    def before_val_epoch(self, runner: RunContext) -> None:
        """Swap the average into the model."""
        self.ema_model.swap_with(self.src_model)

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Swap the training weights back into the model."""
        self.ema_model.swap_with(self.src_model)

    def before_test_epoch(self, runner: RunContext) -> None:
        """Swap the average into the model."""
        self.ema_model.swap_with(self.src_model)

    def after_test_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Swap the training weights back into the model."""
        self.ema_model.swap_with(self.src_model)

    # -- checkpoints --------------------------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: RunContext, checkpoint: StateDict) -> None:
        """Store the average as `state_dict` and the training weights as `ema_state_dict`."""
        checkpoint["ema_state_dict"] = self.ema_model.state_dict()
        _exchange(checkpoint)

    def after_load_checkpoint(self, runner: RunContext, checkpoint: StateDict) -> None:
        """Restore both sets of weights on resume; otherwise initialise the average with the loaded weights."""
        self.before_run(runner)  # a script may load a checkpoint before `before_run`
        if runner.is_resuming:
            if "ema_state_dict" in checkpoint:
                checkpoint["state_dict"] = copy(checkpoint["state_dict"])
                checkpoint["ema_state_dict"] = copy(checkpoint["ema_state_dict"])
                _exchange(checkpoint)
                self._load(self.ema_model, checkpoint["ema_state_dict"])
                return
            runner.logger.warning("the checkpoint has no ema_state_dict: EMAHook's average begins at its weights")
        weights = {re.sub(rf"^{PREFIX}", "", name): value for name, value in checkpoint["state_dict"].items()}
        self._load(self.ema_model.module, weights)

    def _load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load the weights whose name and shape match; with `strict_load`, raise an error if any do not.

        Mismatches of the model itself are reported by the runner.
        """
        mine = model.state_dict()
        other = [name for name in {**mine, **weights} if not _alike(mine.get(name), weights.get(name))]
        if other and self.strict_load:
            raise InputError(f"EMAHook: the checkpoint's average does not fit the model: {', '.join(other[:8])}")
        model.load_state_dict({k: v for k, v in weights.items() if k in mine and k not in other}, strict=False)


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape


def _exchange(checkpoint: StateDict) -> None:
    """Swap the weights of `state_dict` with those of `ema_state_dict`."""
    model, average = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    for name in average:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) in model:
            short = name.removeprefix(PREFIX)
            average[name], model[short] = model[short], average[name]
