"""Read a config file with its bases: parse it, read its bases, run it, merge its values over theirs.

A reader per suffix (`READERS`) turns one file into a `ParsedFile`, and that into a `ConfigFile`; bases and merging are
the same for all of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from raydet3d.config import pure_python
from raydet3d.config.config_dict import ConfigDict, ConfigValue, merge
from raydet3d.config.config_file import ConfigFile, ParsedFile, file_line
from raydet3d.config.interpolation import Placeholders, find_placeholders
from raydet3d.config.locate import OURS, MissingConfig, installed, shipped
from raydet3d.config.python_file import is_value, read_python
from raydet3d.config.source_map import BASE, BASE_VARIABLES, merged_lines, nearest_line
from raydet3d.config.yaml_json import read_json, read_yaml
from raydet3d.errors import InputError, InputKeyError, InputOSError, InputRuntimeError, nearest

DEPRECATION = "_deprecation_"


@dataclass
class InheritanceChain:
    """A config file with its bases.

    Attributes:
        values: The merged config.
        sources: The files, bases first.
        overridden: The overrides that some file has.
        kind: `pure` (Python with `read_base` or imports), `text` (with `_base_`), or `plain` (neither).
    """

    values: ConfigDict
    sources: list[ConfigFile]
    overridden: set[str]
    kind: Literal["pure", "text", "plain"] = "plain"

    @cached_property
    def lines(self) -> dict[str, str]:
        """`file:line` where each dotted key was set last."""
        return merged_lines((str(source.path), source.lines) for source in self.sources)


READERS: Mapping[str, Callable[[Placeholders, Mapping[str, ConfigValue]], ParsedFile]] = {
    ".py": read_python,
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".json": read_json,
}


def read_chain(
    path: Path,
    overrides: Mapping[str, ConfigValue] | None = None,
    *,
    require_env: bool = True,
    via: tuple[tuple[Path, str], ...] = (),
) -> InheritanceChain:
    """Read a config file after its bases.

    Args:
        path: A `.py`, `.yaml`, `.yml` or `.json` file.
        overrides: Values that replace those of plain module-level `NAME = ...` in every file of the chain.
        require_env: Whether an environment variable that is not set and has no default is an error; else the
            placeholder is kept as written.
        via: The files whose `_base_` led here, each with the `file:line` of its `_base_`.

    Raises:
        InputError: Something in a file cannot be read, run or merged; the message names file, line and key.
    """
    if "\0" in str(path):
        raise MissingConfig(f"{f'{via[-1][1]}: ' if via else ''}a path must not contain a NUL character: {str(path)!r}")
    path = Path(os.path.abspath(path))
    ring = [file.resolve() for file, _ in via]
    if path.resolve() in ring:
        names = " -> ".join(str(file) for file in (*ring[ring.index(path.resolve()) :], path))
        raise InputError(f"{via[-1][1]}: {BASE} is circular: {names}")
    if not path.is_file():
        asked = f"{via[-1][1]}: {BASE} names a file that does not exist: {path}" if via else f"no such config: {path}"
        raise MissingConfig(asked)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise InputOSError(
            f"{path}: a config is a .py, .yaml, .yml or .json file, not {path.suffix or 'without suffix'!r}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    parsed = reader(find_placeholders(path, text, require_env=require_env), overrides or {})
    here = file_line(path, parsed.line)
    if parsed.base_variables and not parsed.bases:
        raise InputError(f"{path}: {BASE_VARIABLES} replaces variables of the files in {BASE}, and there is no {BASE}")
    if parsed.pure is not None:
        return _read_pure(
            path, parsed, parsed.pure, partial(read_chain, overrides=overrides, require_env=require_env), via
        )

    base: dict[str, Any] = {}
    lines: dict[str, str] = {}
    sources: list[ConfigFile] = []
    overridden = set(parsed.overrides)
    inner = {**parsed.base_variables, **(overrides or {})}
    for name in parsed.bases:
        chain = read_chain(_base_path(path, name, here), inner, require_env=require_env, via=(*via, (path, here)))
        if chain.kind == "pure":
            raise InputRuntimeError(
                f"{here}: {name} is a pure-python config (it imports what it names), and this file sets {BASE}: "
                "a chain is of one kind; inherit it by 'with read_base():', or write its types as strings"
            )
        for key in chain.values:
            there = chain.lines.get(key, str(chain.sources[-1].path))
            if key in base:
                raise InputKeyError(f"{here}: two of its bases set {key!r}: {lines[key]} and {there}")
            lines[key] = there
        base |= chain.values
        sources += chain.sources
        overridden |= chain.overridden

    for name in parsed.base_variables:
        if name not in overridden:
            raise InputKeyError(f"{here}: {BASE_VARIABLES}: no base assigns {name!r}{nearest(name, list(base))}")
    overridden &= set(overrides or {})
    inherited = ConfigDict(base)
    own = parsed.run(inherited)
    _deprecated(path, own.values.pop(DEPRECATION, None))
    try:
        merged = merge(inherited, own.values)
    except InputError as error:
        line = nearest_line(own.lines, str(error).partition(":")[0])
        raise type(error)(f"{file_line(path, line)}: {error}") from None
    return InheritanceChain(ConfigDict(merged), [*sources, own], overridden, "text" if parsed.bases else "plain")


def _read_pure(
    path: Path,
    parsed: ParsedFile,
    bases: list[pure_python.Base],
    read_base: Callable[..., InheritanceChain],
    via: tuple[tuple[Path, str], ...],
) -> InheritanceChain:
    """Read the rest of a pure-python config: it starts with the names of its bases, and nothing is merged."""
    taken: dict[str, Any] = {}
    imported: set[str] = set()
    sources: list[ConfigFile] = []
    overridden = set(parsed.overrides)
    read: dict[Path, InheritanceChain] = {}
    for base in bases:
        if base.file not in read:
            chain = read[base.file] = read_base(base.file, via=(*via, (path, base.place)))
            if chain.kind == "text":
                raise InputRuntimeError(
                    f"{base.place}: {base.file.name} sets {BASE}, and this is a pure-python config: "
                    "a chain is of one kind"
                )
            sources += chain.sources
            overridden |= chain.overridden
            imported |= chain.sources[-1].imported
        taken |= base.take(read[base.file].sources[-1].namespace)
    own = parsed.run(ConfigDict(taken))
    own.imported |= imported
    values = {key: value for key, value in own.namespace.items() if key not in own.imported and is_value(value)}
    return InheritanceChain(ConfigDict(pure_python.to_dotted_paths(values)), [*sources, own], overridden, "pure")


def _deprecated(path: Path, notice: ConfigValue) -> None:
    """Warn of a config with `_deprecation_ = dict(expected=..., reference=...)`."""
    if isinstance(notice, Mapping):
        more = f" (see {notice['reference']})" if notice.get("reference") else ""
        instead = f"; use {notice['expected']} instead" if notice.get("expected") else ""
        warnings.warn(f"{path} is deprecated{instead}{more}", DeprecationWarning, stacklevel=2)


def _base_path(path: Path, name: str, here: str) -> Path:
    """Return the file of an entry of `_base_`; `mmdet3d::x` comes with this package or an installed one."""
    package, sign, inner = name.partition("::")
    if not sign:
        return path.parent / name
    found = (shipped(inner) if package in OURS else None) or installed(package, inner)
    if found is None:
        why = f"no package {package!r} that has it is installed"
        why = "no such config comes with it" if package in OURS else why
        raise MissingConfig(f"{here}: {BASE} {name!r}: {why}; give the path of a file")
    return found
