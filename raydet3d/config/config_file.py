"""The two stages of reading a config file: parsed (its bases are known) and run (its values are known)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydet3d.config import pure_python
from raydet3d.config.config_dict import ConfigDict, ConfigValue
from raydet3d.config.source_map import BASE, BASE_VARIABLES, Lines
from raydet3d.errors import InputError


@dataclass
class ConfigFile:
    """One file as read.

    Attributes:
        path: The file.
        text: Its text.
        values: Its own top-level keys, not yet merged over its bases.
        lines: The line of each key, at any depth.
        used: The top-level names that the file reads, its own and those of its bases.
        env: The environment variables that it takes values from.
        namespace: All its names with their values, imported ones too: what a pure-python config may import from it.
        imported: The names that it imports, which are no values of the config.
    """

    path: Path
    text: str
    values: dict[str, Any]
    lines: Lines
    used: set[str] = field(default_factory=set)
    env: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, Any] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)


Run = Callable[[ConfigDict], ConfigFile]


@dataclass
class ParsedFile:
    """A config file that is parsed and not yet run.

    Attributes:
        bases: Its `_base_`.
        overrides: The variables in it that are overridden.
        run: From the values of the bases to the file's own.
        line: The line of `_base_`.
        pure: The bases of a pure-python config; None for all others.
        base_variables: Values for variables of the bases.
    """

    bases: list[str]
    overrides: set[str]
    run: Run
    line: int | None = None
    pure: list[pure_python.Base] | None = None
    base_variables: dict[str, ConfigValue] = field(default_factory=dict)


def file_line(path: Path, line: int | None) -> str:
    """Return `file:line`, or the file alone where the line is not known."""
    return f"{path}:{line}" if line else str(path)


def bases_of(path: Path, value: ConfigValue, line: int | None = None) -> list[str]:
    """Return the entries of a `_base_`.

    Raises:
        InputError: They are not paths.
    """
    names = [value] if isinstance(value, str) else value
    found = [name for name in names if isinstance(name, str)] if isinstance(names, list | tuple) else []
    if not isinstance(names, list | tuple) or len(found) < len(names):
        raise InputError(f"{file_line(path, line)}: {BASE} must be a path or a list of paths, got {value!r}")
    return found


def base_variables_of(path: Path, value: ConfigValue, line: int | None = None) -> dict[str, ConfigValue]:
    """Return the entries of a `_base_variables_`.

    Raises:
        InputError: It is no dict, or one of its values is a dict: that would replace a section instead of merging it.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{file_line(path, line)}: {BASE_VARIABLES} must be a dict of variables, got {value!r}")
    for name, one in value.items():
        if isinstance(one, Mapping):
            raise InputError(
                f"{file_line(path, line)}: {BASE_VARIABLES}: {name} is a dict; set it outside, to be merged"
            )
    return dict(value)
