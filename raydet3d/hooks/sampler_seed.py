"""``DistSamplerSeedHook``: tells the sampler which epoch it is, so that each has its own order."""

from __future__ import annotations

from typing import Any

from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Calls ``set_epoch`` of the training loader's sampler, or of its batch sampler's.

    Our loops place the loader themselves, also in the middle of an epoch; this serves users' own loops and samplers.
    Priority NORMAL.
    """

    def before_train_epoch(self, runner: RunContext) -> None:
        """Pass the epoch on."""
        loader = runner.train_dataloader
        samplers: list[Any] = [getattr(loader, "sampler", None), getattr(loader.batch_sampler, "sampler", None)]
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(runner.epoch)
                return
