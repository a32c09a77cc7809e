"""`DistSamplerSeedHook`: set the sampler's epoch, so that each epoch has its own order."""

from __future__ import annotations

from typing import Any

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Set the epoch of the training data loader, or of the sampler of a loader that was built elsewhere.

    The built-in loops set the loader's position themselves, also within an epoch; this hook is for custom loops and
    samplers. Priority NORMAL.
    """

    def before_train_epoch(self, runner: RunContext) -> None:
        """Set the sampler's epoch."""
        loader = runner.train_loop.dataloader
        if hasattr(loader.batch_sampler, "set_position"):
            loader.batch_sampler.set_position(runner.epoch, 0)
        samplers: list[Any] = [getattr(loader, "sampler", None), getattr(loader.batch_sampler, "sampler", None)]
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(runner.epoch)
                return
