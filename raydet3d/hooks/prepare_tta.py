"""``PrepareTTAHook``: puts a model that predicts on several views of a sample in the tested model's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydet3d.dist import is_model_wrapper
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import RunContext
from raydet3d.registry import HOOKS, MODELS


@HOOKS.register_module()
class PrepareTTAHook(Hook):
    """Wraps the model for a test into one for test-time augmentation, and takes it out again afterwards.

    ``raydet3d.runtime.build_runner_with_tta`` registers it and sets the pipeline that makes the views. Priority NORMAL.

    Args:
        tta_cfg: Config of the wrapping model (a ``BaseTTAModel``), without ``module``.
    """

    priority = "NORMAL"

    def __init__(self, tta_cfg: Mapping[str, Any]) -> None:
        self.tta_cfg = dict(tta_cfg)
        self._plain: Any = None

    def before_test(self, runner: RunContext) -> None:
        """Wrap."""
        self._plain = runner.model
        # Predictions need no wrapper for several processes, which stands round the training step only.
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = MODELS.build({**self.tta_cfg, "module": model})

    def after_test(self, runner: RunContext) -> None:
        """Unwrap."""
        runner.model = self._plain
