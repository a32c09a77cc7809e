"""Search space of a sweep: its keys and their domains; settings are sampled from it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from raydet3d.config.cfg_options import split_key
from raydet3d.errors import InputError, nearest
from raydet3d.sweep.domains import Alternatives, Choice, Domain, Value, read_domain

Setting: TypeAlias = dict[str, Value]
"""Value (for alternatives: the name) by key. A key that is absent keeps the config's value."""


class Space:
    """Keys and their domains.

    Args:
        domains: Domain by key; a key comes after those that its `when` names.
    """

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        self.domains = dict(domains)

    @classmethod
    def read(cls, file: str, given: Value) -> Space:
        """Read the space of a sweep file.

        Args:
            file: The file, for messages.
            given: Its `space` section.

        Raises:
            InputError: A domain is empty or malformed, or conditions name unknown keys or form a cycle.
        """
        if not isinstance(given, Mapping) or not given:
            raise InputError(f"{file}: space is empty; it names keys of the config and what they may be")
        domains = {}
        for key, value in given.items():
            split_key(str(key))
            domains[str(key)] = read_domain(f"{file}: space.{key}", value)
        return cls(_ordered(file, domains))

    def __iter__(self) -> Iterator[str]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    def __getitem__(self, key: str) -> Domain:
        return self.domains[key]

    def is_active(self, key: str, setting: Mapping[str, Value]) -> bool:
        """Whether a key's condition holds in a setting; keys absent from the setting fulfil no condition."""
        when = self.domains[key].when
        return all(other in setting and setting[other] in wanted for other, wanted in when.items())

    def compose(self, choose: Callable[[str, Domain], Value]) -> Setting:
        """Build a setting key by key, without keys whose condition does not hold."""
        setting: Setting = {}
        for key, domain in self.domains.items():
            if self.is_active(key, setting):
                setting[key] = choose(key, domain)
        return setting

    def sample(self, rng: random.Random, *, fixed: Mapping[str, Value] | None = None) -> Setting:
        """Sample a setting, with some keys fixed."""
        given = fixed or {}
        return self.compose(lambda key, domain: given[key] if key in given else domain.sample(rng))

    def grid(self, *, only_marked: bool = False) -> list[Setting]:
        """Return all combinations of values, each once.

        Args:
            only_marked: Use only keys that are declared as `grid`.

        Raises:
            InputError: The domain of a key is continuous.
        """
        axes: list[list[tuple[str, Value]]] = []
        for key, domain in self.domains.items():
            if only_marked and not (isinstance(domain, Choice) and domain.grid):
                continue
            values = domain.values()
            if values is None:
                raise InputError(
                    f"search: grid enumerates all values, and space.{key} is continuous; "
                    "give it choice, grid, int or quniform, or use search: random"
                )
            axes.append([(key, value) for value in values])
        out: list[Setting] = []
        for point in itertools.product(*axes):
            setting: Setting = {}
            for key, value in point:
                if self.is_active(key, setting):
                    setting[key] = value
            if setting not in out:
                out.append(setting)
        return out

    def perturb(
        self, setting: Mapping[str, Value], keys: Mapping[str, Domain], rng: random.Random, *, resample: float
    ) -> Setting:
        """Perturb a setting.

        Args:
            setting: The setting.
            keys: Domains of the keys that may change.
            rng: Random generator.
            resample: Probability that a key is sampled anew instead of perturbed.
        """
        out = dict(setting)
        for key, domain in keys.items():
            if key in self.domains and not self.is_active(key, out):
                continue
            if key not in out or rng.random() < resample:
                out[key] = domain.sample(rng)
            else:
                out[key] = domain.perturb(out[key], rng)
        return out

    def overrides(self, setting: Mapping[str, Value], *, extra: Mapping[str, Domain] | None = None) -> dict[str, Value]:
        """Return what a setting writes into the config, by key."""
        out = dict(setting)
        for key, value in setting.items():
            domain = self.domains.get(key) or (extra or {}).get(key)
            if isinstance(domain, Alternatives):
                out[key] = domain.contents[str(value)]
        return out

    def check(self, where: str, setting: Mapping[str, Value]) -> None:
        """Check a setting written by hand (a baseline).

        Raises:
            InputError: A key is not in the space, or a value is not in its domain.
        """
        for key, value in setting.items():
            if key not in self.domains:
                raise InputError(f"{where}: {key!r} is not in the space{nearest(key, self.domains)}")
            domain = self.domains[key]
            if isinstance(domain, Alternatives) and not domain.contains(value):
                names = ", ".join(map(str, domain.options))
                raise InputError(f"{where}: {key} has no alternative {value!r}; it has {names}")


def _ordered(file: str, domains: dict[str, Domain]) -> dict[str, Domain]:
    """Order keys so that each comes after those that its condition names."""
    for key, domain in domains.items():
        _check_when(file, key, domain, domains)
    done: dict[str, Domain] = {}
    waiting = dict(domains)
    while waiting:
        ready = [key for key, domain in waiting.items() if all(other in done for other in domain.when)]
        if not ready:
            raise InputError(f"{file}: space: the conditions of {', '.join(waiting)} form a cycle")
        for key in ready:
            done[key] = waiting.pop(key)
    return done


def _check_when(file: str, key: str, domain: Domain, domains: Mapping[str, Domain]) -> None:
    for other, wanted in domain.when.items():
        if other not in domains:
            raise InputError(f"{file}: space.{key}.when: {other!r} is not in the space{nearest(other, domains)}")
        for value in wanted:
            if not domains[other].contains(value):
                known = domains[other].values()
                hint = f"; it may be {', '.join(map(str, known))}" if known else ""
                raise InputError(f"{file}: space.{key}.when: {other} is never {value!r}{hint}")
