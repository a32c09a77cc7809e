"""Param schedulers: at each tick, a curve's step is applied to one field of every param group.

Values live in the param groups and are saved with the optimizer; a scheduler's own state is its tick count. So a
value that something else changed carries on, and what a config says about a curve holds after a resume as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.optim import Optimizer

from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.optim.curves import CURVES, FOREVER, Curve, OneCycle, settings
from raydet3d.optim.wrapper import OptimWrapper
from raydet3d.registry import PARAM_SCHEDULERS

Group = dict[str, Any]


class Target(Protocol):
    """Where a scheduled value lives in a param group."""

    def read(self, group: Group) -> Any:
        """The value now."""

    def write(self, group: Group, value: Any) -> None:
        """Set the value."""


@dataclass(frozen=True)
class Field:
    """A field of its own name.

    Args:
        name: The field, such as `lr` or `weight_decay`.
    """

    name: str

    def read(self, group: Group) -> Any:
        """The value now."""
        try:
            return group[self.name]
        except KeyError:
            known = ", ".join(sorted(group))
            raise InputError(f"param groups have no {self.name!r} to schedule; they have {known}") from None

    def write(self, group: Group, value: Any) -> None:
        """Set the value; a tensor is filled, as optimizers that run as a graph need."""
        there = group[self.name]
        if isinstance(there, Tensor):
            there.copy_(value) if isinstance(value, Tensor) else there.fill_(value)
        else:
            group[self.name] = value


class FirstBeta:
    """Adam's momentum: the first of `betas`, shown as `momentum` too, as MMEngine's param groups do."""

    def read(self, group: Group) -> Any:
        """The value now."""
        return group["betas"][0]

    def write(self, group: Group, value: Any) -> None:
        """Set the value."""
        group["betas"] = (value, *group["betas"][1:])
        group["momentum"] = value


def momentum_target(optimizer: OptimWrapper | Optimizer) -> Target:
    """Where an optimizer keeps its momentum, told by its defaults."""
    if "momentum" in optimizer.defaults:
        return Field("momentum")
    if "betas" in optimizer.defaults:
        return FirstBeta()
    kind = getattr(optimizer, "optimizer", optimizer)
    raise InputError(f"{type(kind).__name__} has neither momentum nor betas, so there is no momentum to schedule")


def _keys(group: Group) -> list[int]:
    """What tells a group's parameters from others; groups may be cut anew. The base settings have one stand-in."""
    params = group["params"]
    return [id(params)] if isinstance(params, Tensor) else [id(p) for p in params]


class ParamScheduler:
    """Counts ticks and, between `begin` and `end`, writes new values into the param groups.

    The first tick happens at construction, before any training. A scheduler of one's own gives `_get_value`, or
    is a curve (`register_curve`).

    Args:
        optimizer: The optim wrapper, or a plain optimizer.
        param_name: Field of the param groups.
        begin: First tick on which values are written.
        end: Tick from which on they are written no more.
        last_step: Local tick to go on from; -1 at the start of a run.
        by_epoch: Whether a tick is an epoch (else an iteration).
        verbose: Log each new value.
    """

    # Whether `step` is also called after each validation, with its metrics.
    need_val_args: ClassVar[bool] = False

    def __init__(
        self,
        optimizer: OptimWrapper | Optimizer,
        param_name: str,
        begin: float = 0,
        end: float = FOREVER,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not 0 <= begin < end:
            raise InputError(f"end must lie past begin, and begin not below 0; got begin={begin}, end={end}")
        self.optimizer = optimizer
        self.param_name = param_name
        self.begin, self.end, self.by_epoch, self.verbose = begin, end, by_epoch, verbose
        self.target: Target = momentum_target(optimizer) if param_name == "momentum" else Field(param_name)
        self.last_step = last_step
        self._global_step = last_step if last_step < 0 else int(begin) + last_step
        # Iterations of an epoch, where the config measures in epochs what is counted in iterations.
        self.epoch_length: int | None = None
        self.config_changes: list[str] = []
        for group in optimizer.param_groups:
            value = self.target.read(group)
            if isinstance(self.target, FirstBeta):
                group.setdefault("momentum", value)
            group.setdefault(f"initial_{param_name}", value.clone() if isinstance(value, Tensor) else value)
        self._keep_bases()
        self._start()

    def _start(self) -> None:
        self.step()

    def _keep_bases(self) -> None:
        """Note what each parameter's group starts from: a scheduler built later may write another start there."""
        first = f"initial_{self.param_name}"
        self._bases = {key: group[first] for group in self.optimizer.param_groups for key in _keys(group)}

    @property
    def base_values(self) -> list[Any]:
        """What each param group started from."""
        return [self._base(group) for group in self.optimizer.param_groups]

    def _base(self, group: Group) -> Any:
        params = group["params"]
        found = self._bases.get(id(params) if isinstance(params, Tensor) else id(params[0]) if params else 0)
        return group[f"initial_{self.param_name}"] if found is None else found

    def _get_value(self) -> list[Any]:
        """The new value of each of `self.optimizer.param_groups`, at local tick `self.last_step`."""
        raise NotImplementedError

    def step(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Go on by one tick."""
        self._global_step += 1
        if self.begin <= self._global_step < self.end:
            self.last_step += 1
            self._write(self._get_value())

    def _write(self, values: Sequence[Any]) -> None:
        for i, (group, value) in enumerate(zip(self.optimizer.param_groups, values, strict=True)):
            self.target.write(group, value)
            if self.verbose:
                get_logger().info("Adjusting %s of param group %d to %.4e.", self.param_name, i, float(value))

    def get_last_value(self) -> list[Any]:
        """The value of each param group now."""
        return [self.target.read(group) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The tick count, under MMEngine's two names, and whose it is."""
        kind = {"type": type(self).__name__, "param_name": self.param_name, "by_epoch": self.by_epoch}
        if self.epoch_length is not None:
            kind["epoch_length"] = self.epoch_length
        return {"last_step": self.last_step, "_global_step": self._global_step, **kind}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved count; nothing is applied, since values come back with the optimizer.

        What this run's config says (begin, end, the curve) stays. A count of iterations that stand for epochs is
        stretched where an epoch has another length now. MMEngine's own states fit.
        """
        count, length = int(state_dict["_global_step"]), state_dict.get("epoch_length")
        self.config_changes = []
        if length and self.epoch_length and length != self.epoch_length:
            count = round(count * self.epoch_length / length)
            self.config_changes.append(
                f"{type(self).__name__}: iterations of an epoch: {length} -> {self.epoch_length}"
            )
        self.set_count(count)

    def set_count(self, count: int) -> None:
        """Go on from a count of ticks; nothing is applied."""
        self._global_step = count
        # The local tick that belongs to it: -1 before the window, its last one after it.
        self.last_step = max(-1, min(count, int(self.end) - 1) - int(self.begin))


class CurveScheduler(ParamScheduler):
    """A curve applied to one field: what all registered names but ReduceOnPlateau's are.

    The classes are made by `register_curve`; their arguments are the curve's, and `last_step`, `verbose`.
    """

    curve_type: ClassVar[type[Curve]]
    param: ClassVar[str | None] = None
    # Whether the end is the run's, counted in iterations, because the config names none.
    lasts_all_iters: bool = False

    def __init__(self, optimizer: OptimWrapper | Optimizer, *name: str, **arguments: Any) -> None:
        param_name = str(self.param or (name[0] if name else arguments.pop("param_name")))
        last_step, verbose = int(arguments.pop("last_step", -1)), bool(arguments.pop("verbose", False))
        self.curve = self.curve_type(**arguments)
        curve = self.curve
        self._has_own_values = type(self)._get_value is not CurveScheduler._get_value  # a user's subclass
        super().__init__(optimizer, param_name, curve.begin, curve.end, last_step, curve.by_epoch, verbose)

    def _start(self) -> None:
        if isinstance(self.curve, OneCycle) and self.last_step == -1:
            self._set_peaks(self.curve)
        self.step()

    def _set_peaks(self, curve: OneCycle) -> None:
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

    def apply(self, groups: Sequence[Group], bases: Sequence[Any], tick: int) -> list[Any]:
        """The values of some param groups after local tick `tick`.

        Args:
            groups: The groups.
            bases: What each started from.
            tick: The tick, counted from `begin`.
        """
        values, steps = [], {}
        for group, base in zip(groups, bases, strict=True):
            key = id(base) if isinstance(base, Tensor) else base
            if key not in steps:
                steps[key] = self.curve.step(tick, base)
            a, b = steps[key]
            values.append(a * self.target.read(group) + b)
        return values

    def _get_value(self) -> list[Any]:
        groups = self.optimizer.param_groups
        return self.apply(groups, [self._base(group) for group in groups], self.last_step)

    def step(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Go on by one tick; the same as the base's, without its detours, since every iteration comes by here."""
        if self._has_own_values or self.verbose:
            super().step(metrics)
            return
        count = self._global_step = self._global_step + 1
        if count < self.begin or count >= self.end:
            return
        self.last_step += 1
        read, write, tick = self.target.read, self.target.write, self.last_step
        last_base = steps = None
        for group in self.optimizer.param_groups:
            base = self._base(group)
            if steps is None or base is not last_base:
                steps, last_base = self.curve.step(tick, base), base
            write(group, steps[0] * read(group) + steps[1])

    def state_dict(self) -> dict[str, Any]:
        """The tick count, and the curve's settings: these only to notice that a config has changed."""
        return {**super().state_dict(), "curve": settings(self.curve)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved count; where the saved curve was another one, `config_changes` says so."""
        super().load_state_dict(state_dict)
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
        cls, optimizer: OptimWrapper | Optimizer, *name: str, epoch_length: int, **arguments: Any
    ) -> CurveScheduler:
        """Build from arguments in epochs a scheduler that ticks every iteration.

        Args:
            optimizer: The optim wrapper, or a plain optimizer.
            name: The field, where the class leaves it open.
            epoch_length: Iterations of one epoch.
            arguments: The curve's, in epochs.
        """
        others = {k: arguments.pop(k) for k in ("last_step", "verbose", "param_name") if k in arguments}
        curve = cls.curve_type(**arguments).in_iterations(epoch_length)
        made = cls(optimizer, *name, **others, **{f.name: getattr(curve, f.name) for f in fields(curve)})
        made.epoch_length = epoch_length
        return made


# What the last part of a name schedules; None: the field that `param_name` names.
SUFFIXES: dict[str, str | None] = {"LR": "lr", "Momentum": "momentum", "ParamScheduler": None}


def register_curve(name: str, curve: type[Curve]) -> list[type[CurveScheduler]]:
    """Enter a curve for learning rates, for momentum and for any field.

    Args:
        name: First part of the names: `Cosine` gives CosineLR, CosineMomentum, CosineParamScheduler.
        curve: The curve.
    """
    made = []
    for suffix, param in SUFFIXES.items():
        what = {"lr": "The learning rate", "momentum": "Momentum", None: "Any field (`param_name`)"}[param]
        kind = type(
            name + suffix,
            (CurveScheduler,),
            {
                "curve_type": curve,
                "param": param,
                "__doc__": f"{what} along a curve. {(curve.__doc__ or '').split('>>>')[0].rstrip()}",
                "__module__": __name__,
                "__signature__": _signature(curve, param),
            },
        )
        PARAM_SCHEDULERS.register_module(module=kind)
        made.append(kind)
    return made


def _signature(curve: type[Curve], param: str | None) -> inspect.Signature:
    """What a scheduler class takes, so that a misspelt argument is found before it is built."""
    both, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    taken = [inspect.Parameter("optimizer", both)]
    if param is None:
        taken.append(inspect.Parameter("param_name", both))
    for f in fields(curve):
        default = f.default if f.default is not MISSING else inspect.Parameter.empty
        taken.append(inspect.Parameter(f.name, keyword, default=default))
    taken += [inspect.Parameter("last_step", keyword, default=-1)]
    taken += [inspect.Parameter("verbose", keyword, default=False)]
    return inspect.Signature(taken)


for _name, _curve in CURVES.items():
    globals().update({kind.__name__: kind for kind in register_curve(_name, _curve)})
