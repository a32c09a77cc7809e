"""What one key of a sweep may be: choices, ranges and named alternatives; how each is drawn, varied and told apart."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydet3d.errors import InputError, nearest

DIGITS = 4  # significant digits of a drawn number: what is read in a table is what was trained with


@dataclass(frozen=True, kw_only=True)
class Domain(ABC):
    """The values that one key may take.

    Args:
        when: Other keys of the space with the values (or names) for which this key is set at all.
    """

    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @abstractmethod
    def sample(self, rng: random.Random) -> Any:
        """A value at random."""

    @abstractmethod
    def perturb(self, value: Any, rng: random.Random) -> Any:
        """A value near to ``value``, for population based training."""

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Whether ``value`` is in the domain."""

    @abstractmethod
    def ask(self, trial: Any, key: str) -> Any:
        """Let an Optuna trial choose."""

    @abstractmethod
    def distribution(self) -> Any:
        """Optuna's word for this domain."""

    @abstractmethod
    def parameter(self, value: Any) -> Any | None:
        """What Optuna calls a value; None where ``distribution`` has no such value."""

    def values(self) -> list[Any] | None:
        """All values in order; None where there is no end to them."""
        return None

    def examples(self) -> list[Any]:
        """Two values that differ, as long as there are two."""
        return (self.values() or [])[:2]

    def content(self, value: Any) -> Any:
        """What is put into the config for a value."""
        return value

    @property
    def is_log(self) -> bool:
        """Whether pictures draw it on a logarithmic axis."""
        return False


@dataclass(frozen=True, kw_only=True)
class Choice(Domain):
    """One of several values; as ``grid``, each of them in turn.

    Args:
        options: The values.
        grid: Whether random search, too, goes through them one by one.
    """

    options: tuple[Any, ...]
    grid: bool = False

    def sample(self, rng: random.Random) -> Any:
        """One of them."""
        return rng.choice(self.options)

    def perturb(self, value: Any, rng: random.Random) -> Any:
        """The one before or after; at an end, the one that there is."""
        at, last = self.options.index(value) if value in self.options else 0, len(self.options) - 1
        moved = at + rng.choice([-1, 1])
        return self.options[moved if 0 <= moved <= last else min(max(2 * at - moved, 0), last)]

    def contains(self, value: Any) -> bool:
        """Whether it is one of them."""
        return value in self.options

    def ask(self, trial: Any, key: str) -> Any:
        """By its place, since Optuna's categories are scalars."""
        return self.options[trial.suggest_categorical(key, list(range(len(self.options))))]

    def distribution(self) -> Any:
        """Places of the options."""
        import optuna

        return optuna.distributions.CategoricalDistribution(list(range(len(self.options))))

    def parameter(self, value: Any) -> Any | None:
        """Its place."""
        return self.options.index(value) if value in self.options else None

    def values(self) -> list[Any] | None:
        """The options."""
        return list(self.options)


@dataclass(frozen=True, kw_only=True)
class Alternatives(Choice):
    """Whole values by name: three schedules, four optimizers. A setting holds the name.

    Args:
        contents: Value of each name.
    """

    contents: Mapping[str, Any]

    def content(self, value: Any) -> Any:
        """The value of a name."""
        return self.contents[value]


@dataclass(frozen=True, kw_only=True)
class Range(Domain):
    """Numbers between two ends, evenly or by their logarithm, in steps where wanted.

    Args:
        low: Least.
        high: Greatest.
        log: Even in the logarithm.
        step: Distance of the values that may come up; None for any.
        whole: Whether they are integers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def sample(self, rng: random.Random) -> Any:
        """A number of the range."""
        if self.whole:
            return rng.randrange(int(self.low), int(self.high) + 1)
        if self.log:
            return self._tidy(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self._tidy(rng.uniform(self.low, self.high))

    def perturb(self, value: Any, rng: random.Random) -> Any:
        """0.8 or 1.2 of it, within the range and never itself; at least one step away where there are steps."""
        factors = [0.8, 1.2] if rng.random() < 0.5 else [1.2, 0.8]
        step = 1 if self.whole else self.step or (0.1 * (self.high - self.low) if value == 0 else 0)
        for factor in factors:
            moved = value * factor
            if step and abs(moved - value) < step:
                moved = value + math.copysign(step, factor - 1)
            if (tidy := self._tidy(moved)) != value:
                return tidy
        return value

    @property
    def _last(self) -> int:
        """Number of the last step; (0.98 - 0.8) / 0.02 is a little less than 9."""
        assert self.step
        return math.floor((self.high - self.low) / self.step + 1e-9)

    def _at(self, place: int) -> float:
        """Value of a step, with no more digits than tell steps apart: 0.3 and not 0.30000000000000004."""
        assert self.step
        value = round(self.low + place * self.step, 9 - math.floor(math.log10(self.step))) + 0.0  # + 0.0: no -0.0
        return min(max(value, self.low), self.high)

    def _tidy(self, value: float) -> Any:
        """On a step, or with few digits; inside the ends."""
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        if self.step:
            return self._at(min(max(round((value - self.low) / self.step), 0), self._last))
        digits = DIGITS + max(_magnitude(value) - _magnitude(self.high - self.low), 0)  # a narrow range takes more
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Whether it lies inside."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def ask(self, trial: Any, key: str) -> Any:
        """A number, tidied as drawn ones are."""
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high))
        high = self._at(self._last) if self.step else self.high  # Optuna warns where the range is no multiple of it
        return self._tidy(trial.suggest_float(key, self.low, high, step=self.step, log=self.log))

    def distribution(self) -> Any:
        """An integer or float range."""
        import optuna

        if self.whole:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high))
        high = self._at(self._last) if self.step else self.high
        return optuna.distributions.FloatDistribution(self.low, high, log=self.log, step=self.step)

    def parameter(self, value: Any) -> Any | None:
        """Itself; between the steps, where a config's own value may lie, Optuna knows none."""
        if not self.contains(value):
            return None
        if not self.whole and not self.step:
            return value
        tidy = self._tidy(value)
        return tidy if abs(tidy - value) <= 1e-8 * (self.step or 1) else None

    def values(self) -> list[Any] | None:
        """The integers, or the steps."""
        if self.whole:
            return list(range(int(self.low), int(self.high) + 1))
        if self.step:
            return [self._at(place) for place in range(self._last + 1)]
        return None

    def examples(self) -> list[Any]:
        """Both ends."""
        return [self._tidy(self.low), self._tidy(self.high)]

    @property
    def is_log(self) -> bool:
        """As it is drawn."""
        return self.log


def _magnitude(value: float) -> int:
    """Place of the first digit: 0 of 5.1, -2 of 0.05, and -1 also of 0.95 - 0.85, which is a little less than 0.1."""
    return math.floor(math.log10(abs(value)) + 1e-9) if value else 0


KINDS = ("choice", "grid", "uniform", "loguniform", "quniform", "int", "alternatives")


def read_domain(where: str, given: Any) -> Domain:
    """A domain from what the YAML says of a key.

    Args:
        where: File and key, for messages.
        given: ``{uniform: [0, 1]}`` and the like, with ``when`` beside it; a bare list is a choice.

    Raises:
        InputError: It is none.
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


def _read_range(where: str, kind: str, value: Sequence[Any], when: Mapping[str, tuple[Any, ...]]) -> Range:
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
    return Range(low=float(low), high=float(high), log=kind == "loguniform", step=step, whole=kind == "int", when=when)


def _read_when(where: str, given: Any) -> dict[str, tuple[Any, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{where}: when is written {{other key: value}} or {{other key: [values]}}, got {given!r}")
    return {str(key): tuple(value) if isinstance(value, list) else (value,) for key, value in given.items()}
