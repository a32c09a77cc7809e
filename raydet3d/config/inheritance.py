"""From a config file to its merged values: run or parse the file, load its bases, merge it over them.

A reader per suffix (``READERS``) turns one file into a ``Draft``, and that into a ``Source``; all about bases and
merging is the same for all of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet3d.config import pure_python
from raydet3d.config.config_dict import ConfigDict, merge
from raydet3d.config.config_file import Draft, Source
from raydet3d.config.python_file import is_value, read_python
from raydet3d.config.shipped_configs import OURS, installed, shipped
from raydet3d.config.source_map import BASE, line_of
from raydet3d.config.yaml_json import read_json, read_yaml
from raydet3d.errors import InputError

DEPRECATION = "_deprecation_"


class MissingConfig(InputError, FileNotFoundError):
    """A config file that does not exist."""


@dataclass
class Chain:
    """A config file with all that it inherits from.

    Attributes:
        values: The merged config.
        sources: The files, bases first.
        turned: The knobs that some file has.
        kind: ``pure`` (python with ``read_base`` or imports), ``text`` (with ``_base_``), or ``plain`` (neither).
    """

    values: ConfigDict
    sources: list[Source]
    turned: set[str]
    kind: str = "plain"


READERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Draft]] = {
    ".py": read_python,
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".json": read_json,
}


def read_chain(path: Path, knobs: Mapping[str, Any] | None = None, *, via: tuple[tuple[Path, str], ...] = ()) -> Chain:
    """Read a config file and, before it, everything that it inherits from.

    Args:
        path: A ``.py``, ``.yaml``, ``.yml`` or ``.json`` file.
        knobs: Values that replace those of plain module-level ``NAME = ...`` in every file of the chain.
        via: The files whose ``_base_`` led here, each with the place where it says so.

    Raises:
        InputError: Something in a file cannot be read, run or merged; the message names file, line and key.
    """
    path = Path(os.path.abspath(path))
    ring = [file.resolve() for file, _ in via]
    if path.resolve() in ring:
        names = " -> ".join(str(file) for file in (*ring[ring.index(path.resolve()) :], path))
        raise InputError(f"{via[-1][1]}: {BASE} goes round in a circle: {names}")
    if not path.is_file():
        asked = f"{via[-1][1]}: {BASE} names a file that does not exist: {path}" if via else f"no such config: {path}"
        raise MissingConfig(asked)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise InputError(
            f"{path}: a config is a .py, .yaml, .yml or .json file, not {path.suffix or 'without suffix'!r}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    draft = reader(path, text, knobs or {})
    here = draft.place(path)
    if draft.pure is not None:
        return _read_pure(path, draft, draft.pure, knobs, via)

    base: dict[str, Any] = {}
    origin: dict[str, str] = {}
    sources: list[Source] = []
    turned = set(draft.knobs)
    for name in draft.bases:
        chain = read_chain(_base_path(path, name, here), knobs, via=(*via, (path, here)))
        if chain.kind == "pure":
            raise InputError(
                f"{here}: {name} is a pure-python config (it imports what it names), and this file sets {BASE}: "
                "a chain is of one kind; inherit it by 'with read_base():', or write its types as strings"
            )
        for key, value in chain.values.items():
            place = _set_at(chain, key)
            if key in base:
                raise InputError(f"{here}: two of its bases set {key!r}: {origin[key]} and {place}")
            base[key], origin[key] = value, place
        sources += chain.sources
        turned |= chain.turned

    inherited = ConfigDict(base)
    own = draft.run(inherited)
    _deprecated(path, own.values.pop(DEPRECATION, None))
    try:
        merged = merge(inherited, own.values)
    except InputError as error:
        line = line_of(own.places, str(error).partition(":")[0]) or own.lines.get(str(error).split(".")[0])
        raise InputError(f"{path}{f':{line}' if line else ''}: {error}") from None
    return Chain(ConfigDict(merged), [*sources, own], turned, "text" if draft.bases else "plain")


def _read_pure(
    path: Path,
    draft: Draft,
    bases: list[pure_python.Base],
    knobs: Mapping[str, Any] | None,
    via: tuple[tuple[Path, str], ...],
) -> Chain:
    """As ``read_chain``, for a pure-python config: it starts with the names of its bases, and nothing is merged."""
    taken: dict[str, Any] = {}
    imported: set[str] = set()
    sources: list[Source] = []
    turned = set(draft.knobs)
    read: dict[Path, Chain] = {}
    for base in bases:
        if base.file not in read:
            chain = read[base.file] = read_chain(base.file, knobs, via=(*via, (path, base.place)))
            if chain.kind == "text":
                raise InputError(
                    f"{base.place}: {base.file.name} sets {BASE}, and this is a pure-python config: "
                    "a chain is of one kind"
                )
            sources += chain.sources
            turned |= chain.turned
            imported |= chain.sources[-1].imported
        taken |= base.take(read[base.file].sources[-1].space)
    own = draft.run(ConfigDict(taken))
    own.imported |= imported
    values = {key: value for key, value in own.space.items() if key not in own.imported and is_value(value)}
    return Chain(ConfigDict(pure_python.settled(values)), [*sources, own], turned, "pure")


def _set_at(chain: Chain, key: str) -> str:
    """``file:line`` at which a chain sets a top-level key last."""
    for source in reversed(chain.sources):
        if key in source.lines:
            return f"{source.path}:{source.lines[key]}"
    return str(chain.sources[-1].path)


def _deprecated(path: Path, notice: Any) -> None:
    """Warn of a config that says ``_deprecation_ = dict(expected=..., reference=...)``."""
    if isinstance(notice, Mapping):
        more = f" (see {notice['reference']})" if notice.get("reference") else ""
        instead = f"; use {notice['expected']} instead" if notice.get("expected") else ""
        warnings.warn(f"{path} is deprecated{instead}{more}", DeprecationWarning, stacklevel=2)


def _base_path(path: Path, name: str, here: str) -> Path:
    """The file that an entry of ``_base_`` means; ``mmdet3d::x`` comes with this package, or with an installed one."""
    package, sign, inner = name.partition("::")
    if not sign:
        return path.parent / name
    found = (shipped(inner) if package in OURS else None) or installed(package, inner)
    if found is None:
        why = f"no package {package!r} that brings it is installed"
        why = "no such config comes with it" if package in OURS else why
        raise MissingConfig(f"{here}: {BASE} {name!r}: {why}; give the path of a file")
    return found
