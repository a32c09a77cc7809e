"""``EMAHook``: an average of the weights beside the training, which is what is validated, tested and published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from raydet3d.dist import unwrapped
from raydet3d.errors import InputError
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Metrics, RunContext
from raydet3d.registry import HOOKS, MODELS

PREFIX = "module."


@HOOKS.register_module()
class EMAHook(Hook):
    """Keeps an average of the model's weights; validation and testing see the average, training does not.

    In a checkpoint ``state_dict`` holds the average, ready for use, and ``ema_state_dict`` the weights that trained
    (as ``module.<name>``) with the count of updates (``steps``), as MMEngine has it. A resume puts both back; weights
    that are only loaded (``load_from``) are where the average begins as well.

    Priority NORMAL: after a validation the training's weights are back before ``CheckpointHook`` saves.

    Args:
        ema_type: The average: ``ExponentialMovingAverage``, ``StochasticWeightAverage``, ``MomentumAnnealingEMA`` or
            one of the user's own.
        strict_load: Refuse a checkpoint whose names differ from the model's.
        begin_iter: First iteration (from 1) that is averaged; until then the average is a copy.
        begin_epoch: The same, in epochs; only one of the two may be given.
        **kwargs: Of the average: ``momentum``, ``interval``, ``device``, ``update_buffers``, ``gamma``.
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
                raise InputError(f"EMAHook: {name} must be 0 or more, got {value}")
        if begin_iter and begin_epoch:
            raise InputError("EMAHook: give begin_iter or begin_epoch, not both")
        self.strict_load = strict_load
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch
        self._cfg = {"type": ema_type, **kwargs}
        self.src_model: Any = None
        self.ema_model: Any = None

    def before_run(self, runner: RunContext) -> None:
        """Make the copy, unless this run has trained with one already and is tested now."""
        model = unwrapped(runner.model)
        if model is not self.src_model:
            self.src_model, self.ema_model = model, MODELS.build(self._cfg, {"model": model})

    def before_train(self, runner: RunContext) -> None:
        """Check that the average will ever begin."""
        for name, begin, end in (
            ("begin_epoch", self.begin_epoch, runner.max_epochs),
            ("begin_iter", self.begin_iter, runner.max_iters),
        ):
            if end is not None and begin > end:
                raise InputError(f"EMAHook: {name}={begin} lies after the end of training ({end})")

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Take the step's weights into the average."""
        if self._has_begun(runner):
            self.ema_model.update_parameters(self.src_model)
        else:
            self.ema_model.copy_from(self.src_model)

    def _has_begun(self, runner: RunContext) -> bool:
        if self.begin_epoch:
            return runner.epoch + 1 >= self.begin_epoch
        return runner.iter + 1 >= self.begin_iter

    # -- the average in the model's place -----------------------------------------------------------------------

    def before_val_epoch(self, runner: RunContext) -> None:
        """The average in."""
        self.ema_model.swap_with(self.src_model)

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """The training's weights back."""
        self.ema_model.swap_with(self.src_model)

    def before_test_epoch(self, runner: RunContext) -> None:
        """The average in."""
        self.ema_model.swap_with(self.src_model)

    def after_test_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """The training's weights back."""
        self.ema_model.swap_with(self.src_model)

    # -- checkpoints --------------------------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: RunContext, checkpoint: dict[str, Any]) -> None:
        """The average goes under ``state_dict``, what trains under ``ema_state_dict``."""
        checkpoint["ema_state_dict"] = self.ema_model.state_dict()
        _exchange(checkpoint)

    def after_load_checkpoint(self, runner: RunContext, checkpoint: dict[str, Any]) -> None:
        """Put both back where training goes on; else let the average begin at what is loaded."""
        self.before_run(runner)  # a script may load before it runs anything
        if runner.is_resuming:
            if "ema_state_dict" in checkpoint:
                checkpoint["state_dict"] = dict(checkpoint["state_dict"])
                checkpoint["ema_state_dict"] = dict(checkpoint["ema_state_dict"])
                _exchange(checkpoint)
                self._load(self.ema_model, checkpoint["ema_state_dict"])
                return
            runner.logger.warning("the checkpoint has no ema_state_dict: EMAHook's average begins at its weights")
        weights = {re.sub(rf"^{PREFIX}", "", name): value for name, value in checkpoint["state_dict"].items()}
        self._load(self.ema_model.module, weights)

    def _load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load what fits, or with ``strict_load`` refuse what does not; the runner reports on the model's own."""
        mine = model.state_dict()
        other = [name for name in {**mine, **weights} if not _alike(mine.get(name), weights.get(name))]
        if other and self.strict_load:
            raise InputError(f"EMAHook: the checkpoint's average does not fit the model: {', '.join(other[:8])}")
        model.load_state_dict({k: v for k, v in weights.items() if k in mine and k not in other}, strict=False)


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape


def _exchange(checkpoint: dict[str, Any]) -> None:
    """Exchange the weights under ``state_dict`` and those under ``ema_state_dict``."""
    model, average = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    for name in average:
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) in model:
            short = name.removeprefix(PREFIX)
            average[name], model[short] = model[short], average[name]
