"""Where a config's values come from: file and line of each key, and environment variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from raydet3d.config.interpolation import References
from raydet3d.config.source_map import nearest_line
from raydet3d.errors import InputError

_KEY = re.compile(r"^(?:config option )?(?P<key>[A-Za-z_][\w]*(?:\.\w+|\[\d+\])*)(?=[:\s])")
_QUOTED = re.compile(r"'([^'\s]+)'")
_ARGUMENT = re.compile(r": (\w+) must be ")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Plain data that travels with a config.

    Attributes:
        lines: `file:line` where each dotted key was set last.
        env: The environment variables that values were taken from.
        references: By place, the values that the environment gave, and the placeholders as written.
    """

    lines: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    references: References = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Return `file:line` of a dotted key, or of the nearest dict or list around it; else an empty string."""
        return nearest_line(self.lines, key) or ""

    def place_of(self, message: str) -> str:
        """Return `file:line` for a message that begins with a key.

        More precisely that of a name in the message which occurs below this key exactly once: an argument, a quoted
        name, or `type` if the message is about one.
        """
        found = _KEY.match(message)
        if found is None:
            return ""
        key = re.sub(r"\[(\d+)\]", r".\1", found["key"])
        if key not in self.lines and key.partition(".")[0] not in self.lines:
            return ""
        names = [*_ARGUMENT.findall(message), *_QUOTED.findall(message), *(["type"] if " type " in message else [])]
        for name in names:
            if f"{key}.{name}" in self.lines:
                return self.lines[f"{key}.{name}"]
            deep = [other for other in self.lines if other.startswith(f"{key}.") and other.endswith(f".{name}")]
            if len({self.lines[other] for other in deep}) == 1:
                return self.lines[deep[0]]
        return self.where(key)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Prefix an `InputError` raised in the block with file and line of the config key that it names."""
        try:
            yield
        except InputError as error:
            place = self.place_of(str(error))
            if place:
                error.args = (f"{place}: {error}", *error.args[1:])
            raise


@contextmanager
def config_context(key: str) -> Iterator[None]:
    """Prefix the message of an `InputError` raised in the block with the config key that is being read."""
    try:
        yield
    except InputError as error:
        if not str(error).startswith((f"{key}:", f"{key}.", f"{key}[")):
            error.args = (f"{key}: {error}", *error.args[1:])  # its type and its detail stay
        raise
