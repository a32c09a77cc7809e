"""Param schedulers: at each tick, a curve's step is applied to one field of every param group.

Values live in the param groups and are saved with the optimizer; a scheduler's own state is its tick count. So a value
that something else changed is scheduled from there, and what a config says about a curve holds after a resume as well.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Protocol, TypeAlias, TypedDict

from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from raydet3d.config import ConfigValue
from raydet3d.errors import InputError, InputKeyError
from raydet3d.log import MMLogger
from raydet3d.optim import curves
from raydet3d.optim.curves import FOREVER, Curve, settings
from raydet3d.optim.param_groups import Group, Value
from raydet3d.optim.wrapper import OptimWrapper
from raydet3d.registry import PARAM_SCHEDULERS, BadArgument

AnyOptimizer = OptimWrapper | Optimizer


class SchedulerState(TypedDict, total=False):
    """State of a scheduler: its tick counts under MMEngine's names, and what identifies it.

    MMEngine's states have the curve's settings beside the counts instead of in `curve`.
    """

    last_step: int
    _global_step: int
    type: str
    param_name: str
    by_epoch: bool
    epoch_length: int
    curve: dict[str, ConfigValue]
    reductions: int


class Scheduler(Protocol):
    """What a run asks of a scheduler, a user's own included."""

    by_epoch: bool

    def step(self, metrics: Mapping[str, float] | None = None) -> None:
        """Count one iteration or epoch; or take a validation's metrics."""

    def state_dict(self) -> SchedulerState:
        """Return what a resumed run needs."""

    def load_state_dict(self, state_dict: SchedulerState) -> None:
        """Restore a state."""


class Schedule:
    """All schedulers of a run; the one place where ticks are handed out: in training, on resume, and for display.

    Args:
        schedulers: The schedulers; for several optimizers, a list by each one's name.
    """

    def __init__(self, schedulers: Sequence[Scheduler] | Mapping[str, Sequence[Scheduler]]) -> None:
        if isinstance(schedulers, Mapping):
            schedulers = [scheduler for some in schedulers.values() for scheduler in some]
        self.schedulers = schedulers

    def advance(self, *, iters: int = 0, epochs: int = 0) -> None:
        """Step each scheduler by the iterations or the epochs, whichever it counts; iterations come first."""
        for count, by_epoch in ((iters, False), (epochs, True)):
            for _ in range(count):
                for scheduler in self.schedulers:
                    if scheduler.by_epoch == by_epoch:
                        scheduler.step()

    def validated(self, metrics: Mapping[str, float] | None) -> None:
        """Hand a validation's metrics to the schedulers that ask for them."""
        for scheduler in self.schedulers:
            if getattr(scheduler, "need_val_args", False):
                scheduler.step(metrics)


@dataclass(frozen=True)
class Field:
    """A field of the given name.

    Args:
        name: The field, such as `lr` or `weight_decay`.
    """

    name: str

    def read(self, group: Group) -> Value:
        """Return the current value."""
        try:
            value: Value = group[self.name]
        except KeyError:
            known = ", ".join(sorted(group))
            raise InputKeyError(f"param groups have no {self.name!r} to schedule; they have {known}") from None
        return value

    def write(self, group: Group, value: Value) -> None:
        """Set the value; a tensor is filled in place, as optimizers that are captured in a graph need."""
        current = group[self.name]
        if type(current) is not float and isinstance(current, Tensor):
            current.copy_(value) if isinstance(value, Tensor) else current.fill_(value)
        else:
            group[self.name] = value


class FirstBeta:
    """Adam's momentum: the first of `betas`, repeated as `momentum` as in MMEngine's param groups."""

    def read(self, group: Group) -> Value:
        """Return the current value."""
        value: Value = group["betas"][0]
        return value

    def write(self, group: Group, value: Value) -> None:
        """Set the value."""
        group["betas"] = (value, *group["betas"][1:])
        group["momentum"] = value


Target: TypeAlias = Field | FirstBeta
"""The place of a scheduled value in a param group."""


def momentum_target(optimizer: AnyOptimizer) -> Target:
    """Return where an optimizer keeps its momentum, by its defaults."""
    if "momentum" in optimizer.defaults:
        return Field("momentum")
    if "betas" in optimizer.defaults:
        return FirstBeta()
    kind = getattr(optimizer, "optimizer", optimizer)
    raise InputError(
        "optimizer must support momentum when using momentum scheduler: "
        f"{type(kind).__name__} has neither momentum nor betas"
    )


def _keys(group: Group) -> list[int]:
    """Return ids of a group's parameters: groups may be split and merged. The base settings have one tensor."""
    params = group["params"]
    return [id(p) for p in params] if isinstance(params, list) else [id(params)]


class ParamScheduler:
    """Counts ticks and, between `begin` and `end`, writes new values into the param groups.

    The first tick happens at construction, before training. A scheduler of your own defines `_get_value`, or is a
    curve (`register_curve`).

    Args:
        optimizer: The optim wrapper, or a plain optimizer.
        param_name: Field of the param groups.
        begin: First tick on which values are written.
        end: First tick after the last on which values are written.
        last_step: Local tick to continue from; -1 at the start of a run.
        by_epoch: Whether a tick is an epoch (else an iteration).
        verbose: Log each new value.
    """

    # Whether `step` is also called after each validation, with its metrics.
    need_val_args: ClassVar[bool] = False

    def __init__(
        self,
        optimizer: AnyOptimizer,
        param_name: str,
        begin: float = 0,
        end: float = FOREVER,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not isinstance(optimizer, (OptimWrapper, Optimizer)):
            raise BadArgument(f"optimizer should be an Optimizer or an OptimWrapper, got {type(optimizer).__name__}")
        if not 0 <= begin < end:
            raise InputError(f"end should be larger than begin, and begin at least 0; got begin={begin}, end={end}")
        self.optimizer = optimizer
        self.param_name = param_name
        self.begin, self.end, self.by_epoch, self.verbose = begin, end, by_epoch, verbose
        self.target: Target = momentum_target(optimizer) if param_name == "momentum" else Field(param_name)
        self.last_step = last_step
        self._global_step = last_step if last_step < 0 else int(begin) + last_step
        # Iterations of an epoch, where the config measures in epochs what is counted in iterations.
        self.epoch_length: int | None = None
        self.config_changes: list[str] = []
        first = f"initial_{param_name}"
        for i, group in enumerate(optimizer.param_groups):
            value = self.target.read(group)
            if isinstance(self.target, FirstBeta):
                group.setdefault("momentum", value)
            if last_step != -1 and first not in group:
                raise InputKeyError(
                    f"param {first!r} is not specified in param_groups[{i}], which last_step={last_step} needs"
                )
            group.setdefault(first, value.clone() if isinstance(value, Tensor) else value)
        self._keep_bases()
        self._start()

    def _start(self) -> None:
        self.step()

    def _keep_bases(self) -> None:
        """Keep each parameter's initial value: a scheduler that is built later may overwrite `initial_...`."""
        first = f"initial_{self.param_name}"
        self._bases = {key: group[first] for group in self.optimizer.param_groups for key in _keys(group)}

    @property
    def base_values(self) -> list[Value]:
        """Initial value of each param group."""
        return [self._base(group) for group in self.optimizer.param_groups]

    def _base(self, group: Group) -> Value:
        params = group["params"]
        base: Value | None = self._bases.get(id(params[0] if isinstance(params, list) and params else params))
        return group[f"initial_{self.param_name}"] if base is None else base

    def _get_value(self) -> Sequence[Value]:
        """Return the new value of each of `self.optimizer.param_groups` at local tick `self.last_step`."""
        raise NotImplementedError

    def step(self, metrics: Mapping[str, float] | None = None) -> None:
        """Advance by one tick.

        Args:
            metrics: A validation's; for schedulers with `need_val_args`.
        """
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._write(self._get_value())

    def _write(self, values: Sequence[Value]) -> None:
        write = self.target.write
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            write(group, value)
        if self.verbose:
            logger = MMLogger.get_current_instance()
            for i, value in enumerate(values):
                logger.info("Adjusting %s of param group %d to %.4e.", self.param_name, i, float(value))

    def get_last_value(self) -> list[Value]:
        """Return the current value of each param group."""
        return [self.target.read(group) for group in self.optimizer.param_groups]

    def state_dict(self) -> SchedulerState:
        """Return the tick count under MMEngine's two names, and what identifies the scheduler."""
        state: SchedulerState = {
            "last_step": self.last_step,
            "_global_step": self._global_step,
            "type": type(self).__name__,
            "param_name": self.param_name,
            "by_epoch": self.by_epoch,
        }
        if self.epoch_length is not None:
            state["epoch_length"] = self.epoch_length
        return state

    def load_state_dict(self, state_dict: SchedulerState) -> None:
        """Restore a scheduler as it was saved, its settings included; nothing is applied.

        Args:
            state_dict: The state.
        """
        self.resume(state_dict)
        self.last_step = int(state_dict["last_step"])

    def resume(self, state_dict: SchedulerState) -> None:
        """Continue from a saved count; nothing is applied, since values are restored with the optimizer.

        What this run's config says (begin, end, the curve) stays. A count of iterations that stand for epochs is
        scaled where the length of an epoch has changed. MMEngine's states load too.

        Args:
            state_dict: The state.
        """
        count, length = int(state_dict["_global_step"]), state_dict.get("epoch_length")
        self.config_changes = []
        if length and self.epoch_length and length != self.epoch_length:
            count = round(count * self.epoch_length / length)
            self.config_changes.append(
                f"{type(self).__name__}: iterations of an epoch: {length} -> {self.epoch_length}"
            )
        self.set_count(count)

    @property
    def count(self) -> int:
        """Ticks since the start of the run; -1 before the first."""
        return self._global_step

    def set_count(self, count: int) -> None:
        """Continue from a count of ticks; nothing is applied."""
        self._global_step = count
        # The local tick that belongs to it: -1 before the window, its last one after it.
        self.last_step = max(-1, min(count, int(self.end) - 1) - int(self.begin))


class CurveScheduler(ParamScheduler):
    """A curve applied to one field: base of all registered schedulers but ReduceOnPlateau.

    A subclass names its curve and its field: `class LinearLR(CurveScheduler, curve=Linear, param="lr")`. Its arguments
    are MMEngine's, in MMEngine's order: the optimizer, `param_name` where the field is open, the curve's own fields,
    `begin`, `end`, `last_step`, `by_epoch`, `verbose`.
    """

    curve_type: ClassVar[type[Curve]]
    param: ClassVar[str | None] = None
    arguments: ClassVar[inspect.Signature]
    # Whether the end is the run's, counted in iterations, because the config names none.
    lasts_all_iters: bool = False

    def __init_subclass__(cls, curve: type[Curve] | None = None, param: str | None = None) -> None:
        super().__init_subclass__()
        if curve is not None:
            cls.curve_type, cls.param = curve, param
            cls.arguments = cls.__signature__ = _signature(curve, param)  # type: ignore[attr-defined]
        elif "__init__" in vars(cls):  # a user's subclass: its own constructor says what it takes
            cls.__signature__ = None  # type: ignore[attr-defined]

    def __init__(self, optimizer: AnyOptimizer, *args: ConfigValue, **kwargs: ConfigValue) -> None:
        given = self._bind(optimizer, *args, **kwargs)
        del given["optimizer"]
        param_name = str(self.param or given.pop("param_name"))
        last_step, verbose = int(given.pop("last_step", -1)), bool(given.pop("verbose", False))
        self.curve = curve = self.curve_type(**given)
        super().__init__(optimizer, param_name, curve.begin, curve.end, last_step, curve.by_epoch, verbose)

    @classmethod
    def _bind(cls, *args: AnyOptimizer | ConfigValue, **kwargs: AnyOptimizer | ConfigValue) -> dict[str, Any]:
        """Return a call's arguments by name."""
        try:
            return cls.arguments.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise BadArgument(f"{cls.__name__}: {error}") from None

    def __getattr__(self, name: str) -> Any:
        """Return a field of the curve, as MMEngine's schedulers have them: `scheduler.gamma`."""
        curve = vars(self).get("curve")
        if curve is None or name not in {f.name for f in fields(curve)}:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(curve, name)
        return curve.length if value is None and name in ("T_max", "total_steps") else value

    @override
    def _start(self) -> None:
        if isinstance(self.curve, curves.OneCycle) and self.last_step == -1:
            self._set_peaks(self.curve)
        self.step()

    def _set_peaks(self, curve: curves.OneCycle) -> None:
        """Write start, peak and end of the cycle into the groups, under MMEngine's names."""
        groups: Sequence[Group] = self.optimizer.param_groups
        if not isinstance(curve.eta_max, Sequence):
            peaks = [curve.eta_max] * len(groups)
        elif isinstance(self.optimizer, OptimWrapper):
            peaks = self.optimizer.expand_per_group("eta_max", curve.eta_max)
            groups = self.optimizer.param_groups
        else:
            peaks = list(curve.eta_max)
        if len(peaks) != len(groups):
            raise InputError(f"eta_max lists {len(peaks)} values for {len(groups)} param groups")
        for group, peak in zip(groups, peaks, strict=True):
            group[f"initial_{self.param_name}"] = peak / curve.div_factor
            group[f"max_{self.param_name}"] = peak
            group[f"min_{self.param_name}"] = peak / curve.div_factor / curve.final_div_factor
        self._keep_bases()

    @override
    def _get_value(self) -> list[Value]:
        read, last_base, step, values = self.target.read, None, None, []
        for group in self.optimizer.param_groups:
            base = self._base(group)
            if step is None or base is not last_base:
                step, last_base = self.curve.step(self.last_step, base), base  # type: ignore[arg-type]  # a tensor acts like a float
            values.append(step[0] * read(group) + step[1])
        return values

    @override
    def state_dict(self) -> SchedulerState:
        # The curve's settings serve only to notice that a config has changed.
        return {**super().state_dict(), "curve": settings(self.curve)}

    @override
    def load_state_dict(self, state_dict: SchedulerState) -> None:
        saved: dict[str, Any] = {
            **state_dict,
            **state_dict.get("curve", {}),
        }  # MMEngine's states have the settings beside the counts
        found = {key: saved[key] for key in settings(self.curve) if key in saved}
        if isinstance(found.get("milestones"), Mapping):  # MMEngine counts them
            found["milestones"] = sorted(Counter(found["milestones"]).elements())
        self.curve = replace(self.curve, **found)
        self.begin, self.end, self.by_epoch = self.curve.begin, self.curve.end, self.curve.by_epoch
        super().load_state_dict(state_dict)

    @override
    def resume(self, state_dict: SchedulerState) -> None:
        super().resume(state_dict)
        now, saved = settings(self.curve), state_dict.get("curve", {})
        self.config_changes += [
            f"{type(self).__name__}.{key}: {saved[key]} -> {value}"
            for key, value in now.items()
            if key in saved and saved[key] != value
        ]

    def end_at(self, tick: int) -> None:
        """Move the end, for a schedule that lasts as long as the run."""
        self.curve = replace(self.curve, end=tick)
        self.end = tick

    @classmethod
    def build_iter_from_epoch(
        cls, *args: AnyOptimizer | ConfigValue, epoch_length: int, **kwargs: AnyOptimizer | ConfigValue
    ) -> CurveScheduler:
        """Build from arguments in epochs a scheduler that ticks every iteration.

        Args:
            *args: The constructor's.
            epoch_length: Iterations of one epoch.
            **kwargs: The constructor's.
        """
        given = cls._bind(*args, **kwargs)
        optimizer: AnyOptimizer = given.pop("optimizer")
        others = {k: given.pop(k) for k in ("last_step", "verbose", "param_name") if k in given}
        curve = cls.curve_type(**given).in_iterations(epoch_length)
        made = cls(optimizer, **others, **{f.name: getattr(curve, f.name) for f in fields(curve)})
        made.epoch_length = epoch_length
        return made


# MMEngine's order of arguments where it is not the usual one.
_COMMON = ("begin", "end", "last_step", "by_epoch", "verbose")
_ORDER = {
    "MultiStep": ("milestones", "gamma", "last_step", "begin", "end", "by_epoch", "verbose"),
    "CosineAnnealing": ("T_max", "eta_min", *_COMMON, "eta_min_ratio"),
}


def _signature(curve: type[Curve], param: str | None) -> inspect.Signature:
    """Return what a scheduler class takes."""
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    defaults = {f.name: empty if f.default is MISSING else f.default for f in fields(curve)}
    defaults.update(last_step=-1, verbose=False)
    own = sorted((name for name in defaults if name not in _COMMON), key=lambda name: defaults[name] is not empty)
    names = _ORDER.get(curve.__name__, (*own, *_COMMON))
    required = ["optimizer", *(["param_name"] if param is None else [])]
    return inspect.Signature(
        [inspect.Parameter(name, kind, default=defaults.get(name, empty)) for name in (*required, *names)]
    )


def register_curve(
    name: str, curve: type[Curve]
) -> tuple[type[CurveScheduler], type[CurveScheduler], type[CurveScheduler]]:
    """Register a curve for learning rates, for momentum and for any field.

    Args:
        name: First part of the names: `Cosine` gives CosineLR, CosineMomentum, CosineParamScheduler.
        curve: The curve.

    Returns:
        The three classes.
    """
    module = sys._getframe(1).f_globals["__name__"]

    def register(suffix: str, param: str | None) -> type[CurveScheduler]:
        kind = types.new_class(name + suffix, (CurveScheduler,), {"curve": curve, "param": param})
        kind.__doc__, kind.__module__ = curve.__doc__, module
        return PARAM_SCHEDULERS.register_module(module=kind)

    return register("LR", "lr"), register("Momentum", "momentum"), register("ParamScheduler", None)


ConstantLR, ConstantMomentum, ConstantParamScheduler = register_curve("Constant", curves.Constant)
CosineAnnealingLR, CosineAnnealingMomentum, CosineAnnealingParamScheduler = register_curve(
    "CosineAnnealing", curves.CosineAnnealing
)
CosineRestartLR, CosineRestartMomentum, CosineRestartParamScheduler = register_curve(
    "CosineRestart", curves.CosineRestart
)
ExponentialLR, ExponentialMomentum, ExponentialParamScheduler = register_curve("Exponential", curves.Exponential)
LinearLR, LinearMomentum, LinearParamScheduler = register_curve("Linear", curves.Linear)
MultiStepLR, MultiStepMomentum, MultiStepParamScheduler = register_curve("MultiStep", curves.MultiStep)
OneCycleLR, OneCycleMomentum, OneCycleParamScheduler = register_curve("OneCycle", curves.OneCycle)
PolyLR, PolyMomentum, PolyParamScheduler = register_curve("Poly", curves.Poly)
StepLR, StepMomentum, StepParamScheduler = register_curve("Step", curves.Step)
