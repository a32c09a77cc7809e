"""`ReduceOnPlateau...`: schedulers that depend on a metric, and therefore have a state and are no curves."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Lt
from torch import Tensor
from typing_extensions import override

from raydet3d.config import ConfigValue
from raydet3d.config.type_check import NonNegativeFloat, checked
from raydet3d.errors import InputAssertionError, InputError, InputKeyError, InputTypeError
from raydet3d.optim.curves import FOREVER
from raydet3d.optim.param_groups import Value
from raydet3d.optim.schedule import AnyOptimizer, ParamScheduler, SchedulerState
from raydet3d.optim.wrapper import OptimWrapper
from raydet3d.registry import PARAM_SCHEDULERS

SETTINGS = ("monitor", "rule", "factor", "patience", "threshold", "threshold_rule", "cooldown", "min_value", "eps")
STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_step", "_global_step")


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauParamScheduler(ParamScheduler):
    """Multiplies a field by `factor` when a metric has stopped getting better.

    Called after each epoch (which it only counts) and after each validation, with its metrics.

    Args:
        optimizer: The optim wrapper, or a plain optimizer.
        param_name: Field of the param groups.
        monitor: Name of the metric.
        rule: Whether `less` or `greater` is better.
        factor: Multiplier, below 1.
        patience: Validations without progress that are tolerated.
        threshold: Least progress that counts.
        threshold_rule: `rel` to the best value, or `abs`.
        cooldown: Validations after a reduction that are not judged.
        min_value: Value below which nothing falls; or one per param group (the base group's may be left out).
        eps: A change smaller than this is not made.
        begin: First epoch whose validations are judged.
        end: Epoch from which on they are judged no more.
        last_step: Judged validations to continue from; -1 at the start of a run.
        by_epoch: Must be true.
        verbose: Log each new value.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    >>> scheduler = ReduceOnPlateauLR(optimizer, monitor="loss", factor=0.5, patience=1)
    >>> seen = []
    >>> for loss in (3.0, 2.0, 2.0, 2.0, 2.0):
    ...     scheduler.step({"loss": loss})
    ...     seen.append(optimizer.param_groups[0]["lr"])
    >>> seen
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    need_val_args = True

    @checked
    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        monitor: str = "loss",
        rule: Literal["less", "greater"] = "less",
        factor: Annotated[float, Lt(1)] = 0.1,
        patience: int = 10,
        threshold: NonNegativeFloat = 1e-4,
        threshold_rule: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_value: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        begin: float = 0,
        end: float = FOREVER,
        last_step: float = -1,  # an integer, checked below: MMEngine's scripts expect an AssertionError
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not by_epoch:
            raise InputAssertionError("ReduceOnPlateau acts on validations: by_epoch must be True")
        if not isinstance(last_step, int) or last_step < -1:
            raise InputAssertionError(f"last_step must be an integer of at least -1, got {last_step!r}")
        self.monitor, self.rule, self.factor, self.patience = monitor, rule, factor, patience
        self.threshold, self.threshold_rule, self.cooldown, self.eps = threshold, threshold_rule, cooldown, eps
        self.min_value = min_value
        self.best = math.inf if rule == "less" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.reductions = 0
        super().__init__(optimizer, param_name, begin, end, last_step, by_epoch, verbose)
        self.min_values()

    def _start(self) -> None:
        """Count the first tick; nothing else happens before the first validation."""
        self._global_step += 1

    def step(self, metrics: Mapping[str, float | Tensor] | None = None) -> None:
        """Count an epoch, or judge a validation.

        Args:
            metrics: The validation's metrics; None after an epoch.
        """
        if metrics is None:
            self._global_step += 1
            return
        if not isinstance(metrics, Mapping):
            raise InputTypeError(f"metrics must be a dict of scores by name, got {metrics!r}")
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            if self.monitor not in metrics:
                known = ", ".join(map(str, metrics)) or "none"
                raise InputKeyError(f"ReduceOnPlateau monitors {self.monitor!r}; validation gave {known}")
            value = metrics[self.monitor]
            if self._judge(float(value.item() if isinstance(value, Tensor) else value)):
                self.reductions += 1
                self._reduce()

    def _judge(self, value: float) -> bool:
        """Take note of a value; whether it is time to reduce."""
        if self._is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs <= self.patience:
            return False
        self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        return True

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.rule == "less" else -1
        if self.threshold_rule == "rel":
            return sign * value < sign * self.best * (1 - sign * self.threshold)
        return sign * value < sign * self.best - self.threshold

    def _reduce(self) -> None:
        """Write the values after one reduction."""
        values: list[Value] = []
        for group, least in zip(self.optimizer.param_groups, self.min_values(), strict=True):
            value = self.target.read(group)
            new = max(value * self.factor, least)
            values.append(new if value - new > self.eps else value)
        self._write(values)

    def repeat_reductions(self) -> None:
        """Make all reductions so far again, from the configured values."""
        for _ in range(self.reductions):
            self._reduce()

    def min_values(self) -> list[float]:
        """Return the minimum value of each param group."""
        count = len(self.optimizer.param_groups)
        if not isinstance(self.min_value, Sequence):
            return [self.min_value] * count
        values = list(self.min_value)
        if isinstance(self.optimizer, OptimWrapper):
            if len(values) == self.optimizer.num_logical_groups and self.optimizer.base_param_settings is not None:
                values.append(values[-1])  # as in MMEngine, the base settings follow the last group
            return self.optimizer.expand_per_group("min_value", values)
        if len(values) != count:
            raise InputError(f"min_value lists {len(values)} values for {count} param groups")
        return values

    @override
    def state_dict(self) -> SchedulerState:
        own = {name: getattr(self, name) for name in (*SETTINGS, *STATE)}
        return {**super().state_dict(), **own, "reductions": self.reductions}  # type: ignore[typeddict-item]

    @override
    def set_count(self, count: int) -> None:
        self._global_step = count

    @override
    def load_state_dict(self, state_dict: SchedulerState) -> None:
        for name in SETTINGS:
            setattr(self, name, state_dict.get(name, getattr(self, name)))
        self.resume(state_dict)

    @override
    def resume(self, state_dict: SchedulerState) -> None:
        for name in STATE:
            setattr(self, name, state_dict[name])  # type: ignore[literal-required]
        self.reductions = int(state_dict.get("reductions", 0))


def _constructor(param: str) -> Callable[..., None]:
    """Return a constructor for a fixed field, whose signature lacks `param_name`."""

    def __init__(
        self: ReduceOnPlateauParamScheduler, optimizer: AnyOptimizer, *args: ConfigValue, **kwargs: ConfigValue
    ) -> None:
        ReduceOnPlateauParamScheduler.__init__(self, optimizer, param, *args, **kwargs)  # type: ignore[arg-type]

    whole = inspect.signature(ReduceOnPlateauParamScheduler.__init__)
    kept = [p for name, p in whole.parameters.items() if name != "param_name"]
    __init__.__signature__ = whole.replace(parameters=kept)  # type: ignore[attr-defined]
    return __init__


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauLR(ReduceOnPlateauParamScheduler):
    """`ReduceOnPlateauParamScheduler` for the learning rate."""

    __init__ = _constructor("lr")


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauMomentum(ReduceOnPlateauParamScheduler):
    """`ReduceOnPlateauParamScheduler` for momentum, or the first of Adam's betas."""

    __init__ = _constructor("momentum")
