"""Write a config as Python, YAML or JSON that loads to an equal config."""

from __future__ import annotations

import json
import keyword
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from raydet3d.compat import DottedPath
from raydet3d.config.config_dict import ConfigValue, Place, import_path, map_leaves, walk
from raydet3d.config.interpolation import Scalar, restore_references
from raydet3d.config.yaml_json import SHORT_FLOAT
from raydet3d.errors import InputError

WIDTH = 110
SECRET_KEYS = frozenset({"api_key", "token", "secret", "password"})
REDACTED = "<redacted>"
_PLACEHOLDER = re.compile(r"\{\{\$(\w+):.*?\}\}")


def to_text(
    values: Mapping[str, ConfigValue],
    suffix: str = ".py",
    *,
    references: Mapping[Place, tuple[Scalar, str]] | None = None,
) -> str:
    """Return a config as the text of a `.py`, `.yaml`, `.yml` or `.json` file.

    Values of environment variables are written as placeholders (`{{$NAME:default}}`); other secrets are redacted, see
    `redact`. JSON has no tuples: they are written as lists.

    Args:
        values: The config.
        suffix: Of the file.
        references: The values of environment variables (`Origin.references`).

    Raises:
        InputError: A value is no plain data, a key in JSON is no string, or the suffix is unknown.
    """
    literals: dict[str, str] = {}
    filled = restore_references(map_leaves(values, _plain_leaf), references or {}, literals)
    text = _in_language(redact(filled), suffix)
    if not literals:
        return text
    return re.sub(rf"""['"]?({"|".join(literals)})['"]?""", lambda found: literals[found[1]], text)


def _in_language(plain: dict[str, Any], suffix: str) -> str:
    if suffix == ".py":
        for key in plain:
            if not _is_word(key):
                raise InputError(f"{key!r} cannot be a variable of a python file; dump this config to .yaml")
        return "".join(f"{key} = {_source(value, len(key) + 3, 0, WIDTH)}\n" for key, value in plain.items())
    if suffix in (".yaml", ".yml"):
        return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    if suffix == ".json":
        _refuse_numbers_as_keys(plain)
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    raise InputError(f"a config is dumped to .py, .yaml, .yml or .json, not {suffix!r}")


def redact(value: object) -> Any:
    """Return `value` without secrets.

    Strings under `api_key`, `token`, `secret` and `password` are replaced; a placeholder loses its default. Values
    under `env_vars` become placeholders for the environment variables of the same names, so that a run that is started
    from the dumped config says which variables it needs.
    """
    return map_leaves(value, _redacted)


def _redacted(value: object, place: Place) -> object:
    """Return the value of a key without secrets."""
    variables = [name for outer, name in pairwise(place) if outer == "env_vars" and isinstance(name, str)]
    if variables:  # a placeholder for the variable that the value came from, or for the one of its name
        placeholder = _PLACEHOLDER.fullmatch(str(value))
        name = placeholder[1] if placeholder else variables[0]
        return f"{{{{${name}:}}}}" if re.fullmatch(r"\w+", name) else REDACTED
    key = str(place[-1]).lower() if place else ""
    if key in SECRET_KEYS and isinstance(value, str) and value:
        without_default = _PLACEHOLDER.sub(r"{{$\1:}}", value)
        return without_default if "{{$" in without_default else REDACTED
    return value


def _plain_leaf(value: object, place: Place) -> object:
    """Return plain data: classes become import paths, numpy's scalars become Python's, paths become strings."""
    value = import_path(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path | DottedPath):
        return str(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        plain: object = value.item()
        return plain
    where = ".".join(map(str, place))
    raise InputError(f"{where} is a {type(value).__name__} ({value!r}), which a config file cannot hold")


def _refuse_numbers_as_keys(plain: Mapping[str, ConfigValue]) -> None:
    """Refuse keys that JSON would load as strings, such as 0 as "0"."""
    for place, value in walk(plain):
        for key in value if isinstance(value, dict) else ():
            if not isinstance(key, str):
                raise InputError(
                    f"{'.'.join(map(str, place)) or 'the config'} has the key {key!r}, and keys in JSON are strings; "
                    "dump this config to .yaml or .py"
                )


class _Dumper(yaml.SafeDumper):
    """Safe YAML with tuples and without aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML's line breaks beyond \n do not survive in its other styles.
    style = '"' if any(letter in text for letter in "\r\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_implicit_resolver(*SHORT_FLOAT)  # so that the text "1e3" is put in quotes
_Dumper.add_representer(str, _text)
_Dumper.add_representer(
    tuple, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:python/tuple", data, flow_style=True)
)


def _source(value: ConfigValue, column: int = 0, indent: int = 0, width: float = math.inf) -> str:
    """Return Python source of `value`: on one line if it fits, else one item per line.

    Args:
        value: Plain data.
        column: Column at which the value starts.
        indent: Indentation of the line.
        width: Length of a line.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, dict) and all(map(_is_word, value)):
        head, tail, items = "dict(", ")", [(f"{key}=", item) for key, item in value.items()]
    elif isinstance(value, dict):
        head, tail, items = "{", "}", [(f"{key!r}: ", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        head, tail = ("[", "]") if isinstance(value, list) else ("(", ")")
        items = [("", item) for item in value]
    else:
        return repr(value)
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    flat = f"{head}{', '.join(name + _source(item) for name, item in items)}{comma}{tail}"
    if column + len(flat) < width or not items:
        return flat
    pad = " " * (indent + 4)
    lines = [f"{pad}{name}{_source(item, len(pad) + len(name), indent + 4, width)},\n" for name, item in items]
    return f"{head}\n{''.join(lines)}{' ' * indent}{tail}"


def _is_word(key: object) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
