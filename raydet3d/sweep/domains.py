"""Domains of a sweep's keys: choices, ranges and named alternatives; how values are sampled and perturbed."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

from typing_extensions import override

from raydet3d.errors import InputError, nearest

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Value: TypeAlias = "bool | int | float | str | Sequence[Value] | Mapping[str, Value] | None"
"""Plain data, as YAML has it."""

DIGITS = 4  # significant digits of a sampled number, so that tables show exactly what was trained with


@dataclass(frozen=True, kw_only=True)
class Domain(ABC):
    """Possible values of one key.

    Args:
        when: Condition: other keys of the space and their values (or names) for which this key is set at all.
    """

    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @abstractmethod
    def sample(self, rng: random.Random) -> Value:
        """Return a random value."""

    @abstractmethod
    def perturb(self, value: Value, rng: random.Random) -> Value:
        """Return a value close to another one, for population based training."""

    @abstractmethod
    def contains(self, value: Value) -> bool:
        """Whether a value is in the domain."""

    @abstractmethod
    def suggest(self, trial: BaseTrial, key: str) -> Value:
        """Let an Optuna trial suggest a value."""

    @abstractmethod
    def to_param(self, value: Value) -> int | float | None:
        """Return Optuna's parameter for a value, or None where `suggest` never gives it."""

    def values(self) -> list[Value] | None:
        """Return all values in order, or None for a continuous domain."""
        return None

    def examples(self) -> list[Value]:
        """Return two different values, or the only one."""
        return (self.values() or [])[:2]


@dataclass(frozen=True, kw_only=True)
class Choice(Domain):
    """One of several values.

    Args:
        options: The values.
        grid: Whether random search enumerates them, too.
    """

    options: tuple[Value, ...]
    grid: bool = False

    @override
    def sample(self, rng: random.Random) -> Value:
        return rng.choice(self.options)

    @override
    def perturb(self, value: Value, rng: random.Random) -> Value:
        """Return the previous or next option; at either end, the neighbour."""
        at, last = self.options.index(value) if value in self.options else 0, len(self.options) - 1
        moved = at + rng.choice([-1, 1])
        return self.options[moved if 0 <= moved <= last else min(max(2 * at - moved, 0), last)]

    @override
    def contains(self, value: Value) -> bool:
        return value in self.options

    @override
    def suggest(self, trial: BaseTrial, key: str) -> Value:
        # By index: Optuna's categories are scalars.
        return self.options[trial.suggest_categorical(key, list(range(len(self.options))))]

    @override
    def to_param(self, value: Value) -> int | float | None:
        return self.options.index(value) if value in self.options else None

    @override
    def values(self) -> list[Value] | None:
        return list(self.options)


@dataclass(frozen=True, kw_only=True)
class Alternatives(Choice):
    """Whole values by name, such as schedules or optimizers; a setting holds the name.

    Args:
        contents: Value by name.
    """

    contents: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Range(Domain):
    """Numbers of an interval, uniform or log-uniform.

    Args:
        low: Lower bound, included.
        high: Upper bound, included.
        log: Whether values are uniform in their logarithm.
        step: Distance between possible values; None for a continuous range.
        is_integer: Whether values are integers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    is_integer: bool = False

    @override
    def sample(self, rng: random.Random) -> int | float:
        if self.is_integer:
            return rng.randrange(int(self.low), int(self.high) + 1)
        if self.log:
            return self._round(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self._round(rng.uniform(self.low, self.high))

    @override
    def perturb(self, value: Value, rng: random.Random) -> int | float:
        """Return 0.8 or 1.2 times a value, at least one step away and within the bounds."""
        number = cast(float, value)
        factors = [0.8, 1.2] if rng.random() < 0.5 else [1.2, 0.8]
        step = 1 if self.is_integer else self.step or (0.1 * (self.high - self.low) if number == 0 else 0)
        for factor in factors:
            moved = number * factor
            if step and abs(moved - number) < step:
                moved = number + math.copysign(step, factor - 1)
            if (rounded := self._round(moved)) != number:
                return rounded
        return number

    @property
    def _last(self) -> int:
        """Index of the last step; (0.98 - 0.8) / 0.02 is slightly less than 9."""
        assert self.step
        return math.floor((self.high - self.low) / self.step + 1e-9)

    def _step_value(self, index: int) -> float:
        """Return the value of a step, rounded: 0.3 and not 0.30000000000000004."""
        assert self.step
        value = round(self.low + index * self.step, 9 - math.floor(math.log10(self.step))) + 0.0  # + 0.0: no -0.0
        return min(max(value, self.low), self.high)

    def _round(self, value: float) -> int | float:
        """Round to a step, or to few digits, and clip to the bounds."""
        if self.is_integer:
            return int(min(max(round(value), self.low), self.high))
        if self.step:
            return self._step_value(min(max(round((value - self.low) / self.step), 0), self._last))
        digits = DIGITS + max(_magnitude(value) - _magnitude(self.high - self.low), 0)  # a narrow range needs more
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)

    @override
    def contains(self, value: Value) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @override
    def suggest(self, trial: BaseTrial, key: str) -> int | float:
        if self.is_integer:
            return trial.suggest_int(key, int(self.low), int(self.high))
        high = self._step_value(self._last) if self.step else self.high  # Optuna warns of a bound between two steps
        return self._round(trial.suggest_float(key, self.low, high, step=self.step, log=self.log))

    @override
    def to_param(self, value: Value) -> int | float | None:
        # The config's own value may lie between two steps.
        if not self.contains(value):
            return None
        number = cast(float, value)
        if not self.is_integer and not self.step:
            return number
        rounded = self._round(number)
        return rounded if abs(rounded - number) <= 1e-8 * (self.step or 1) else None

    @override
    def values(self) -> list[Value] | None:
        if self.is_integer:
            return list(range(int(self.low), int(self.high) + 1))
        if self.step:
            return [self._step_value(index) for index in range(self._last + 1)]
        return None

    @override
    def examples(self) -> list[Value]:
        return [self._round(self.low), self._round(self.high)]


def _magnitude(value: float) -> int:
    """Return the decimal exponent: 0 of 5.1, -2 of 0.05, and -1 of 0.95 - 0.85, which is slightly less than 0.1."""
    return math.floor(math.log10(abs(value)) + 1e-9) if value else 0


KINDS = ("choice", "grid", "uniform", "loguniform", "quniform", "int", "alternatives")


def read_domain(where: str, given: Value) -> Domain:
    """Read the domain of a key.

    Args:
        where: File and key, for messages.
        given: A dict such as `{uniform: [0, 1]}`, optionally with `when`; a list is a choice.

    Raises:
        InputError: `given` is no domain.
    """
    if isinstance(given, list):
        given = {"choice": given}
    if not isinstance(given, Mapping):
        raise InputError(
            f"{where}: a key's space is written {{choice: [...]}} or {{uniform: [low, high]}}, got {given!r}"
        )
    kinds = [key for key in given if key != "when"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        wrong = next((kind for kind in kinds if kind not in KINDS), None)
        hint = nearest(str(wrong), KINDS) if wrong else ""
        raise InputError(
            f"{where}: give one of {', '.join(KINDS)}, got {', '.join(map(str, kinds)) or 'nothing'}{hint}"
        )
    kind = kinds[0]
    when = _read_when(where, given.get("when"))
    value = given[kind]
    if kind == "alternatives":
        if not isinstance(value, Mapping) or not value:
            raise InputError(f"{where}: alternatives are written {{name: value, ...}}, got {value!r}")
        names = tuple(str(name) for name in value)
        return Alternatives(options=names, contents={str(k): v for k, v in value.items()}, when=when)
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: {kind} is empty; it takes a list, got {value!r}")
    if kind in ("choice", "grid"):
        for i, item in enumerate(value):
            if item in value[:i]:
                raise InputError(f"{where}: {kind} has {item!r} twice")
        return Choice(options=tuple(value), grid=kind == "grid", when=when)
    return _read_range(where, kind, value, when)


def _read_range(where: str, kind: str, value: Sequence[Value], when: Mapping[str, tuple[Value, ...]]) -> Range:
    count = 3 if kind == "quniform" else 2
    form = "[low, high, step]" if count == 3 else "[low, high]"
    numbers = [item for item in value if isinstance(item, int | float) and not isinstance(item, bool)]
    if len(value) != count or len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"{where}: {kind} takes {form} of numbers, got {list(value)!r}")
    low, high = numbers[:2]
    if low >= high:
        raise InputError(f"{where}: {kind} {list(value)!r} is an empty range; low must be less than high")
    if kind == "loguniform" and low <= 0:
        raise InputError(f"{where}: loguniform needs numbers above 0, got {list(value)!r}")
    if kind == "int" and not all(float(number).is_integer() for number in numbers):
        raise InputError(f"{where}: int takes whole numbers, got {list(value)!r}")
    if kind == "quniform" and not 0 < numbers[2] <= (high - low) * (1 + 1e-9):
        raise InputError(f"{where}: quniform's step must be above 0 and fit into the range, got {list(value)!r}")
    step = float(numbers[2]) if kind == "quniform" else None
    return Range(
        low=float(low), high=float(high), log=kind == "loguniform", step=step, is_integer=kind == "int", when=when
    )


def _read_when(where: str, given: Value) -> dict[str, tuple[Value, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{where}: when is written {{other key: value}} or {{other key: [values]}}, got {given!r}")
    return {str(key): tuple(value) if isinstance(value, list) else (value,) for key, value in given.items()}
