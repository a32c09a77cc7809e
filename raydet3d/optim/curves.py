"""Schedule curves: each returns, for every tick, the affine step `a * value + b` of a value.

Steps are taken from the value of the moment, so curves chain and overlap by being applied one after the other.

Legend: t local tick, 0 at `begin` · T ticks from begin to end · v value before the step · base value the run
started from (the group's `initial_...`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from typing_extensions import override

from raydet3d.config import ConfigValue
from raydet3d.errors import InputAssertionError, InputError

FOREVER = 10**9
Affine = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One stretch of a schedule.

    Args:
        begin: First tick on which the curve acts.
        end: Tick from which on it acts no more.
        by_epoch: Whether a tick is an epoch (else an iteration).
    """

    begin: float = 0
    end: float = FOREVER
    by_epoch: bool = True

    # Names of the fields that are measured in ticks.
    durations: ClassVar[tuple[str, ...]] = ("begin", "end")

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end:
            raise InputError(
                f"end should be larger than begin, and begin at least 0; got begin={self.begin}, end={self.end}"
            )
        self.check()

    def check(self) -> None:
        """Refuse fields that make no curve."""

    def step(self, t: int, base: float) -> Affine:
        """Return the pair (a, b) of tick `t`."""
        raise NotImplementedError

    def start(self, value: float) -> float:
        """Return the value for the group's `initial_...`; most curves leave it unchanged."""
        return value

    def in_iterations(self, epoch_length: int) -> Self:
        """Return the same curve, measured in iterations instead of epochs."""
        if not self.by_epoch:
            raise InputAssertionError("convert_to_iter_based needs by_epoch=True")
        if epoch_length < 1:
            raise InputAssertionError(f"convert_to_iter_based needs epoch_length of at least 1, got {epoch_length}")

        def scaled(value: float | Sequence[float] | None) -> float | Sequence[float] | None:
            if value is None or value == FOREVER:
                return value
            if isinstance(value, Sequence):
                return [v * epoch_length for v in value]
            return value * epoch_length

        new: dict[str, Any] = {name: scaled(getattr(self, name)) for name in self.durations}
        return replace(self, by_epoch=False, **{**new, "begin": int(new["begin"]), "end": int(new["end"])})

    @property
    def length(self) -> float:
        """Ticks from begin to end."""
        return self.end - self.begin


def _need(right: bool, message: str, error: type[InputError] = InputError) -> None:
    if not right:
        raise error(message)


def preview(curve: Curve, value: float, ticks: int) -> list[float]:
    """Return the values of a curve on ticks 0, 1, ..., without other schedules.

    Args:
        curve: The curve.
        value: Value that the config gives.
        ticks: Number of values.
    """
    base = value = curve.start(value)
    seen = []
    for tick in range(ticks):
        if curve.begin <= tick < curve.end:
            a, b = curve.step(tick - int(curve.begin), base)
            value = a * value + b
        seen.append(value)
    return seen


@dataclass(frozen=True, kw_only=True)
class Constant(Curve):
    """`v * factor` at the start, `v / factor` on the last tick; unchanged between.

    Without an `end` that is reached, or in a window of one tick, the value is not given back.

    Args:
        factor: Multiplier, above 0 and at most 1.

    >>> preview(Constant(factor=0.5, end=3), 1.0, 5)
    [0.5, 0.5, 1.0, 1.0, 1.0]
    """

    factor: float = 1 / 3

    def check(self) -> None:
        """Refuse a factor that could not be undone."""
        _need(0 < self.factor <= 1, f"factor must be above 0 and at most 1, got {self.factor}")

    @override
    def step(self, t: int, base: float) -> Affine:
        if t == 0:
            return self.factor, 0.0
        return (1 / self.factor if t == self.length - 1 else 1.0), 0.0


@dataclass(frozen=True, kw_only=True)
class Linear(Curve):
    """From `start_factor` to `end_factor` of the value, evenly: `f(t) = s + (e - s) t / (T - 1)`.

    The step is `v * f(t) / f(t - 1)`. In a window of one tick the value stays at `start_factor`.

    Args:
        start_factor: Multiplier at the first tick, above 0 and at most 1.
        end_factor: Multiplier at the last tick, in [0, 1].

    >>> preview(Linear(start_factor=0.25, end=4), 1.0, 6)
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    start_factor: float = 1 / 3
    end_factor: float = 1.0

    def check(self) -> None:
        """Refuse factors outside their ranges."""
        _need(0 < self.start_factor <= 1, f"start_factor must be above 0 and at most 1, got {self.start_factor}")
        _need(0 <= self.end_factor <= 1, f"end_factor must lie in [0, 1], got {self.end_factor}")

    @override
    def step(self, t: int, base: float) -> Affine:
        if t == 0:
            return self.start_factor, 0.0
        rise, last = self.end_factor - self.start_factor, self.length - 1
        return 1.0 + rise / (last * self.start_factor + (t - 1) * rise), 0.0


@dataclass(frozen=True, kw_only=True)
class Exponential(Curve):
    """`v * gamma` on every tick but the first.

    Args:
        gamma: Multiplier; not rescaled by `convert_to_iter_based`.

    >>> preview(Exponential(gamma=0.5), 1.0, 4)
    [1.0, 0.5, 0.25, 0.125]
    """

    gamma: float

    @override
    def step(self, t: int, base: float) -> Affine:
        return (self.gamma if t else 1.0), 0.0


@dataclass(frozen=True, kw_only=True)
class Step(Curve):
    """`v * gamma` on every `step_size`-th tick.

    Args:
        step_size: Ticks between two drops.
        gamma: Multiplier.

    >>> preview(Step(step_size=2, gamma=0.5), 1.0, 6)
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    step_size: float
    gamma: float = 0.1

    durations: ClassVar[tuple[str, ...]] = ("begin", "end", "step_size")

    def check(self) -> None:
        """Refuse a step that is no stretch of ticks."""
        _need(self.step_size > 0, f"step_size must be above 0, got {self.step_size}")

    @override
    def step(self, t: int, base: float) -> Affine:
        return (self.gamma if t and t % self.step_size == 0 else 1.0), 0.0


@dataclass(frozen=True, kw_only=True)
class MultiStep(Curve):
    """`v * gamma` on each milestone; twice there where it is listed twice.

    Args:
        milestones: Ticks counted from `begin`.
        gamma: Multiplier.

    >>> preview(MultiStep(milestones=[1, 3, 3], gamma=0.5), 1.0, 5)
    [1.0, 0.5, 0.5, 0.125, 0.125]
    """

    milestones: Sequence[float]
    gamma: float = 0.1

    durations: ClassVar[tuple[str, ...]] = ("begin", "end", "milestones")

    def check(self) -> None:
        """Refuse milestones that are no list of numbers."""
        right = isinstance(self.milestones, Sequence) and not isinstance(self.milestones, str)
        _need(right, f"milestones must be a list of numbers, got {self.milestones!r}")

    @override
    def step(self, t: int, base: float) -> Affine:
        times = sum(m == t for m in self.milestones)
        return (self.gamma**times if times else 1.0), 0.0


@dataclass(frozen=True, kw_only=True)
class Poly(Curve):
    """Down to `eta_min`, reached on the last tick: `(v - eta_min) (1 - 1 / (T - t))^power + eta_min`.

    Args:
        eta_min: Value at the end.
        power: Exponent; 1 is a straight line.

    >>> [round(v, 4) for v in preview(Poly(power=2, end=5), 1.0, 6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    eta_min: float = 0.0
    power: float = 1.0

    @override
    def step(self, t: int, base: float) -> Affine:
        if t == 0:
            return 1.0, 0.0
        a = (1 - 1 / (self.length - t)) ** self.power
        return a, self.eta_min * (1 - a)


def _low(base: float, eta_min: float | None, ratio: float | None) -> float:
    """Return the lower end of a cosine: a value, or a share of the initial value."""
    return base * ratio if ratio is not None else (eta_min or 0.0)


def _cosine(t: int, half: float, low: float) -> Affine:
    """Return (a, b) of a tick of a half wave of `half` ticks: the ratio of two cosines above their lower end."""
    a = (1 + math.cos(math.pi * t / half)) / (1 + math.cos(math.pi * (t - 1) / half))
    return a, low * (1 - a)


@dataclass(frozen=True, kw_only=True)
class CosineAnnealing(Curve):
    """From v0, the value found at `begin`, to `low`: `low + (v0 - low) (1 + cos(pi t / T_max)) / 2`.

    A `low` above the value makes it rise. Past `T_max` the wave continues.

    Args:
        T_max: Ticks of the half wave; by default all from begin to end.
        eta_min: The lowest value, `low`; 0 by default.
        eta_min_ratio: `low` as a share of the initial value, instead of `eta_min`.

    >>> [round(v, 4) for v in preview(CosineAnnealing(T_max=4, end=4), 1.0, 5)]
    [1.0, 0.8536, 0.5, 0.1464, 0.1464]
    >>> [round(v, 4) for v in preview(CosineAnnealing(T_max=2, eta_min=10.0), 1.0, 5)]
    [1.0, 5.5, 10.0, 5.5, 1.0]
    """

    T_max: float | None = None
    eta_min: float | None = None
    eta_min_ratio: float | None = None

    durations: ClassVar[tuple[str, ...]] = ("begin", "end", "T_max")

    def check(self) -> None:
        """Refuse both `eta_min` and `eta_min_ratio`, and a wave without length."""
        both = self.eta_min is not None and self.eta_min_ratio is not None
        _need(
            not both,
            f"give eta_min or eta_min_ratio, not both; got {self.eta_min} and {self.eta_min_ratio}",
            InputAssertionError,
        )
        _need(self.T_max is None or self.T_max > 0, f"T_max must be above 0, got {self.T_max}")

    @override
    def step(self, t: int, base: float) -> Affine:
        if t == 0:
            return 1.0, 0.0
        half = self.T_max or self.length
        low = _low(base, self.eta_min, self.eta_min_ratio)
        if (t - 1 - half) % (2 * half) == 0:  # leaving the trough, where the ratio would be 0 / 0
            return 1.0, (base - low) * (1 - math.cos(math.pi / half)) / 2
        return _cosine(t, half, low)


@dataclass(frozen=True, kw_only=True)
class CosineRestart(Curve):
    """Cosine half waves one after the other; each starts anew from `base * weight`. Constant after the last.

    Args:
        periods: Ticks of each half wave.
        restart_weights: Share of the initial value from which each starts.
        eta_min: The lowest value.
        eta_min_ratio: The lowest value as a share of the initial value; give exactly one of the two.

    >>> [round(v, 4) for v in preview(CosineRestart(periods=[2, 2], restart_weights=[1, 0.5], eta_min=0.0), 1.0, 6)]
    [1.0, 0.5, 0.5, 0.25, 0.25, 0.25]
    """

    periods: Sequence[float]
    restart_weights: Sequence[float] = (1,)
    eta_min: float | None = None
    eta_min_ratio: float | None = None

    durations: ClassVar[tuple[str, ...]] = ("begin", "end", "periods")

    def check(self) -> None:
        """Refuse none or both of `eta_min` and `eta_min_ratio`, and weights that do not pair with periods."""
        one = (self.eta_min is None) != (self.eta_min_ratio is None)
        _need(
            one,
            f"give either eta_min or eta_min_ratio; got {self.eta_min} and {self.eta_min_ratio}",
            InputAssertionError,
        )
        same = len(self.periods) == len(self.restart_weights)
        lists = f"{list(self.restart_weights)} for periods={list(self.periods)}"
        _need(same, f"restart_weights must be as many as periods, got {lists}", InputAssertionError)
        _need(all(p > 0 for p in self.periods), f"periods must be above 0, got {list(self.periods)}")

    @override
    def step(self, t: int, base: float) -> Affine:
        low = _low(base, self.eta_min, self.eta_min_ratio)
        start = 0.0
        for period, weight in zip(self.periods, self.restart_weights, strict=True):
            if t < start + period:
                since = t - int(start)
                return _cosine(since, period, low) if since else (0.0, base * weight)
            start += period
        return 1.0, 0.0


@dataclass(frozen=True, kw_only=True)
class OneCycle(Curve):
    """Up from `eta_max / div_factor` to `eta_max`, then down below the start; independent of the earlier value.

    Source: Smith and Topin, Super-Convergence, 2018. `final_div_factor` divides the start, not the peak.

    Args:
        eta_max: The peak; or one peak per param group (the base group counts).
        total_steps: Ticks of the cycle; by default all from begin to end.
        pct_start: Share of the cycle that goes up.
        anneal_strategy: `cos` or `linear`.
        div_factor: Peak / start.
        final_div_factor: Start / end.
        three_phase: Go down to the start first, as long as it went up, and then to the end.

    >>> cycle = OneCycle(eta_max=1.0, total_steps=6, pct_start=0.5, div_factor=4.0, anneal_strategy="linear")
    >>> [round(v, 4) for v in preview(cycle, 0.1, 6)]
    [0.25, 0.625, 1.0, 0.6667, 0.3334, 0.0]
    """

    eta_max: float | Sequence[float]
    total_steps: float | None = None
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    durations: ClassVar[tuple[str, ...]] = ("begin", "end", "total_steps")

    def check(self) -> None:
        """Refuse a cycle without a shape."""
        known = self.anneal_strategy in ("cos", "linear")
        _need(known, f"anneal_strategy must be 'cos' or 'linear', got {self.anneal_strategy!r}")
        _need(0 <= self.pct_start <= 1, f"pct_start must lie in [0, 1], got {self.pct_start}")
        _need(self.total_steps is None or self.total_steps > 0, f"total_steps must be above 0, got {self.total_steps}")

    @override
    def start(self, value: float) -> float:
        if isinstance(self.eta_max, Sequence):
            raise InputError(f"one peak is needed here, got a list: {list(self.eta_max)}")
        return self.eta_max / self.div_factor

    @override
    def step(self, t: int, base: float) -> Affine:
        total = self.total_steps or self.length
        if t > total:
            raise InputError(f"OneCycle was given {total} steps in all (total_steps), and this is step {t}")
        peak, low, top = base * self.div_factor, base / self.final_div_factor, self.pct_start * total - 1
        legs = [(top, base, peak), (total - 1, peak, low)]
        if self.three_phase:
            legs = [(top, base, peak), (2 * self.pct_start * total - 2, peak, base), (total - 1, base, low)]
        i = next((i for i, leg in enumerate(legs) if t <= leg[0]), len(legs) - 1)
        stop, first, last = legs[i]
        start = legs[i - 1][0] if i else 0.0
        share = (t - start) / (stop - start) if stop != start else 1.0
        if self.anneal_strategy == "linear":
            return 0.0, (last - first) * share + first
        return 0.0, last + (first - last) / 2 * (1 + math.cos(math.pi * share))


# Under the first part of the names that configs use: StepLR, StepMomentum, StepParamScheduler, ...
CURVES: dict[str, type[Curve]] = {
    curve.__name__: curve
    for curve in (Constant, CosineAnnealing, CosineRestart, Exponential, Linear, MultiStep, OneCycle, Poly, Step)
}


def settings(curve: Curve) -> dict[str, ConfigValue]:
    """Return a curve's fields as plain data, for a state dict."""
    values = {f.name: getattr(curve, f.name) for f in fields(curve)}
    return {k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for k, v in values.items()}
