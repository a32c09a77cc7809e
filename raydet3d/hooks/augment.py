"""``DisableObjectSampleHook``: no pasted objects in the last epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydet3d.hooks.hook import Hook
from raydet3d.registry import HOOKS

if TYPE_CHECKING:
    from raydet3d.runtime.runner import Runner


@HOOKS.register_module()
class DisableObjectSampleHook(Hook):
    """Turns ``ObjectSample`` off once a number of epochs is finished.

    The data set is told before its loader starts, and every index carries its epoch: so it holds in worker processes
    that live on, and after a resume at any point.

    Args:
        disable_after_epoch: Epochs with pasted objects.
    """

    def __init__(self, disable_after_epoch: int = 15) -> None:
        self.disable_after_epoch = disable_after_epoch

    def before_train(self, runner: Runner) -> None:
        """Tell the data set."""
        dataset = runner.train_dataloader.dataset
        turn_off = getattr(dataset, "turn_off", None)
        if turn_off is None or not turn_off("ObjectSample", self.disable_after_epoch):
            runner.logger.warning(
                "DisableObjectSampleHook has nothing to do: the training data set's pipeline has no ObjectSample"
            )
