"""`PrepareTTAHook`: wrap the model for test-time augmentation."""

from __future__ import annotations

from typing import Any

from raydet3d.dist import is_model_wrapper
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import PartCfg, RunContext
from raydet3d.registry import HOOKS, MODELS


@HOOKS.register_module()
class PrepareTTAHook(Hook):
    """Wrap the model in a test-time augmentation model before a test, and restore it afterwards.

    `raydet3d.runtime.build_runner_with_tta` registers this hook and sets the pipeline that generates the views.
    Priority NORMAL.

    Args:
        tta_cfg: Config of the wrapping model (a `BaseTTAModel`), without `module`.
    """

    priority = "NORMAL"

    def __init__(self, tta_cfg: PartCfg) -> None:
        self.tta_cfg = tta_cfg
        self._plain: Any = None

    def before_test(self, runner: RunContext) -> None:
        """Replace the run's model by the wrapping model."""
        self._plain = runner.model
        # The distributed wrapper is only needed for training steps.
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = MODELS.build({**self.tta_cfg, "module": model})

    def after_test(self, runner: RunContext) -> None:
        """Restore the original model."""
        runner.model = self._plain
