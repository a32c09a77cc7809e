"""A config as nested sections that know their keys, and what is found to contradict itself in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
    """A dict of the config and the key that leads to it.

    Args:
        path: The key, dotted; empty for the whole config.
        mapping: The dict.
    """

    def __init__(self, path: str, mapping: Mapping[str, Any]) -> None:
        self.path = path
        self.mapping = mapping

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default."""
        return self.mapping.get(key, default)

    def key(self, name: str) -> str:
        """Return the full key of an entry."""
        return f"{self.path}.{name}" if self.path else name

    def section(self, name: str) -> Section | None:
        """Return an entry that is a dict, or None."""
        value = self.mapping.get(name)
        return Section(self.key(name), value) if isinstance(value, Mapping) else None

    def sections(self, name: str) -> Iterator[Section]:
        """Yield an entry that is a dict, or the dicts of one that is a list."""
        value = self.mapping.get(name)
        if isinstance(value, Mapping):
            yield Section(self.key(name), value)
        for number, item in enumerate(value if isinstance(value, list | tuple) else ()):
            if isinstance(item, Mapping):
                yield Section(f"{self.key(name)}[{number}]", item)


def sub_sections(section: Section) -> Iterator[Section]:
    """Yield a section and all sections below it."""
    yield section
    for name in section.mapping:
        for inner in section.sections(str(name)):
            yield from sub_sections(inner)


def type_name(kind: object) -> str:
    """Return the last part of a `type`: of a name with or without scope, of a class, or of a lazy import."""
    if isinstance(kind, type):
        return kind.__name__
    return str(kind).rpartition(".")[2] if kind is not None else ""


def short(values: Sequence[object]) -> str:
    """Return a list for a message, without its middle where it is long."""
    texts = [str(value) for value in values]
    if len(texts) > 6:
        texts = [*texts[:3], "...", *texts[-1:]]
    return f"[{', '.join(texts)}]"
