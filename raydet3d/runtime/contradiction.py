"""A config as nested sections that know their keys, and what is found to contradict itself in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType


@dataclass(frozen=True)
class Contradiction:
    """Two places of a config that do not fit.

    Args:
        message: One sentence that names both places and their values.
        is_error: Whether training or evaluation must go wrong.
    """

    message: str
    is_error: bool


def error(message: str) -> Contradiction:
    """Return a contradiction with which training or evaluation must go wrong."""
    return Contradiction(message, is_error=True)


def warning(message: str) -> Contradiction:
    """Return a contradiction with which training or evaluation may go wrong."""
    return Contradiction(message, is_error=False)


class Section:
    """A dict of the config and the key that leads to it; false, and without entries, where there is no dict.

    Args:
        path: The key, dotted; empty for the whole config.
        value: What the config has there.
    """

    def __init__(self, path: str, value: object) -> None:
        self.path = path
        self.exists = isinstance(value, Mapping)
        self.mapping: Mapping[str, object] = value if isinstance(value, Mapping) else {}

    def __bool__(self) -> bool:
        return self.exists

    @property
    def kind(self) -> str:
        """Last part of `type`: of a name with or without scope, of a class, or of a lazy import."""
        kind = self.mapping.get("type")
        if isinstance(kind, type):
            return kind.__name__
        return str(kind).rpartition(".")[2] if kind is not None else ""

    def get(self, key: str, default: object = None) -> object:
        """Return a value, or the default."""
        return self.mapping.get(key, default)

    def key(self, name: str) -> str:
        """Return the full key of an entry."""
        return f"{self.path}.{name}" if self.path else name

    def section(self, name: str) -> Section:
        """Return an entry that is a dict."""
        return Section(self.key(name), self.mapping.get(name))

    def sections(self, name: str) -> Iterator[Section]:
        """Yield an entry that is a dict, or the dicts of one that is a list."""
        value = self.mapping.get(name)
        if isinstance(value, Mapping):
            yield Section(self.key(name), value)
        for number, item in enumerate(items(value)):
            if isinstance(item, Mapping):
                yield Section(f"{self.key(name)}[{number}]", item)

    def walk(self) -> Iterator[Section]:
        """Yield this section and all sections below it."""
        yield self
        for name in self.mapping:
            for inner in self.sections(str(name)):
                yield from inner.walk()

    def whole(self, key: str, default: int | None = None) -> int | None:
        """Return an integer, the default where the key is missing, or None for any other value."""
        value = self.mapping.get(key, default)
        return value if isinstance(value, int) else None

    def numbers(self, key: str, count: int | None = None) -> list[float]:
        """Return a list of numbers, of the given length; an empty list for any other value."""
        return numbers(self.mapping.get(key), count)

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of names; an empty tuple for any other value."""
        found = items(self.mapping.get(key))
        return tuple(name for name in found if isinstance(name, str)) if _all(found, str) else ()


def items(value: object) -> Sequence[object]:
    """Return a list or tuple; an empty tuple for any other value."""
    return value if isinstance(value, list | tuple) else ()


def numbers(value: object, count: int | None = None) -> list[float]:
    """Return a list of numbers, of the given length; an empty list for any other value."""
    found = items(value)
    is_wanted = count in (None, len(found)) and _all(found, int | float)
    return [float(x) for x in found if isinstance(x, int | float)] if is_wanted else []


def _all(values: Sequence[object], kind: type | UnionType) -> bool:
    return all(isinstance(value, kind) for value in values)


def short(values: Sequence[object]) -> str:
    """Return a list for a message, without its middle where it is long."""
    texts = [str(value) for value in values]
    if len(texts) > 6:
        texts = [*texts[:3], "...", *texts[-1:]]
    return f"[{', '.join(texts)}]"
