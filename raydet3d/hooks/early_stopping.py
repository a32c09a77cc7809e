"""`EarlyStoppingHook`: stop training when a metric no longer improves."""

from __future__ import annotations

import math
from typing import Literal

from raydet3d.config.type_check import NonNegativeFloat, NonNegativeInt, checked
from raydet3d.errors import InputAssertionError
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import Metrics, RunContext, StateDict
from raydet3d.hooks.metric_rules import given_score, infer_rule, is_better
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Stop training after `patience` consecutive validations without an improvement of at least `min_delta`.

    The best score and the count are saved in checkpoints, so that a resumed run continues counting. Priority LOWEST:
    after all other hooks of a validation, including the best checkpoint of `CheckpointHook`.

    Args:
        monitor: Name of the metric.
        rule: Whether `'greater'` or `'less'` is better; inferred from the metric's name by default.
        min_delta: Minimum change that counts as an improvement.
        strict: Raise an error if validation does not return the metric; otherwise log a warning and continue.
        check_finite: Stop when the metric is not finite.
        patience: Number of consecutive validations without an improvement after which training stops; 0 means 1, as in
            MMEngine.
        stopping_threshold: Stop as soon as the metric is better than this.
    """

    priority = "LOWEST"

    @checked
    def __init__(
        self,
        monitor: str,
        rule: Literal["greater", "less"] | None = None,
        min_delta: NonNegativeFloat = 0.1,
        strict: bool = False,
        check_finite: bool = True,
        patience: NonNegativeInt = 5,
        stopping_threshold: float | None = None,
    ) -> None:
        self.monitor = monitor
        self.rule = rule or infer_rule(monitor, owner="EarlyStoppingHook", key="monitor")
        self.min_delta = min_delta
        self.strict = strict
        self.check_finite = check_finite
        self.patience = patience
        self.stopping_threshold = stopping_threshold
        self.best_score = -math.inf if self.rule == "greater" else math.inf
        self.wait_count = 0

    def state_dict(self) -> StateDict:
        """Return the best score and the number of validations since."""
        return {"best_score": self.best_score, "wait_count": self.wait_count}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""
        self.best_score, self.wait_count = float(state["best_score"]), int(state["wait_count"])

    def before_run(self, runner: RunContext) -> None:
        """Check that the training loop can be stopped.

        Raises:
            InputAssertionError: It has no attribute `stop_training`.
        """
        if runner.is_training and not hasattr(runner.train_loop, "stop_training"):
            loop = type(runner.train_loop).__name__
            raise InputAssertionError(f"EarlyStoppingHook: {loop} has no stop_training, so it cannot be stopped early")

    def before_train(self, runner: RunContext) -> None:
        """Stop at once if the resumed run had already stopped early."""
        if self.wait_count >= max(self.patience, 1):
            self._stop(runner, f"{self.monitor} had not improved in {self.wait_count} validations when the run stopped")
        threshold = self.stopping_threshold
        if threshold is not None and is_better(self.best_score, threshold, self.rule):
            self._stop(runner, f"{self.monitor} was {self.best_score:.4f}, better than the threshold {threshold:g}")

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Compare the score with the best one, and stop if the criterion is met."""
        if not runner.is_training:  # standalone validation
            return
        found = metrics or {}
        if self.monitor not in found and not self.strict:
            runner.logger.warning(
                "EarlyStoppingHook: validation gave no %r, so it decides nothing; it gave %s",
                self.monitor,
                ", ".join(map(str, found)) or "nothing",
            )
            return
        score = given_score(found, self.monitor, owner="EarlyStoppingHook", key="monitor")
        reason = self._judge(score)
        if reason:
            self._stop(runner, reason)

    def _judge(self, score: float) -> str | None:
        """Update the best score and count; return the reason to stop, or None."""
        threshold = self.stopping_threshold
        if self.check_finite and not math.isfinite(score):
            return f"{self.monitor} is {score}; the best was {self.best_score:.4f}"
        if threshold is not None and is_better(score, threshold, self.rule):
            self.best_score = score
            return f"{self.monitor} is {score:.4f}, better than the threshold {threshold:g}"
        delta = self.min_delta if self.rule == "greater" else -self.min_delta
        if math.isnan(score) or is_better(self.best_score + delta, score, self.rule):
            self.wait_count += 1
            if self.wait_count >= max(self.patience, 1):
                return f"{self.monitor} has not improved in {self.wait_count} validations; best {self.best_score:.4f}"
            return None
        self.best_score, self.wait_count = score, 0
        return None

    def _stop(self, runner: RunContext, reason: str) -> None:
        runner.train_loop.stop_training = True
        runner.logger.info("training stops early: %s", reason)
