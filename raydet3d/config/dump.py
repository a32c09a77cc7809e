"""Write a config as Python, YAML or JSON that loads to an equal config."""

from __future__ import annotations

import json
import keyword
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from raydet3d.compat import DottedPath
from raydet3d.config.config_dict import to_plain
from raydet3d.config.interpolation import Place, restore_references
from raydet3d.config.yaml_json import SHORT_FLOAT
from raydet3d.errors import InputError

WIDTH = 110
SECRET_KEYS = frozenset({"api_key", "token", "secret", "password"})
REDACTED = "<redacted>"
_PLACEHOLDER = re.compile(r"\{\{\$(\w+):.*?\}\}")


def to_text(
    values: Mapping[str, Any], suffix: str = ".py", *, references: Mapping[Place, tuple[Any, str]] | None = None
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
    filled = restore_references(_checked(to_plain(values), ""), references or {}, literals)
    text = _in_language(redact(filled), suffix)
    for mark, placeholder in literals.items():
        text = re.sub(f"""['"]?{mark}['"]?""", lambda _, placeholder=placeholder: placeholder, text)  # type: ignore[misc]
    return text


def _in_language(plain: dict[str, Any], suffix: str) -> str:
    if suffix == ".py":
        for key in plain:
            if not _is_word(key):
                raise InputError(f"{key!r} cannot be a variable of a python file; dump this config to .yaml")
        return "".join(f"{key} = {_source(value, len(key) + 3, 0)}\n" for key, value in plain.items())
    if suffix in (".yaml", ".yml"):
        return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    if suffix == ".json":
        _check_keys(plain, "")
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    raise InputError(f"a config is dumped to .py, .yaml, .yml or .json, not {suffix!r}")


def write_text(
    path: Path, values: Mapping[str, Any], *, references: Mapping[Place, tuple[Any, str]] | None = None
) -> None:
    """Write a config to a file in the language of its suffix, see `to_text`; folders are made as needed."""
    text = to_text(values, path.suffix, references=references)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def redact(value: Any) -> Any:
    """Return `value` without secrets.

    Strings under `api_key`, `token`, `secret` and `password` are replaced; a placeholder loses its default. Values
    under `env_vars` become placeholders for the environment variables of the same names, so that a run that is started
    from the dumped config says which variables it needs.
    """
    if isinstance(value, Mapping):
        return {key: _redacted(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact(item) for item in value)
    return value


def _redacted(key: str, value: Any) -> Any:
    """The value of a key without secrets."""
    if key == "env_vars" and isinstance(value, Mapping):
        return {name: _variable(str(name), item) for name, item in value.items()}
    if key.lower() in SECRET_KEYS and isinstance(value, str):
        without_default = _PLACEHOLDER.sub(r"{{$\1:}}", value)
        return without_default if "{{$" in without_default or not value else REDACTED
    return redact(value)


def _variable(name: str, value: Any) -> str:
    """A placeholder for the environment variable that a value came from, or else for the one of a name."""
    placeholder = _PLACEHOLDER.fullmatch(str(value))
    name = placeholder[1] if placeholder else name
    return f"{{{{${name}:}}}}" if re.fullmatch(r"\w+", name) else REDACTED


def _checked(value: Any, path: str) -> Any:
    """Return plain data: numpy's scalars become Python's, paths become strings."""
    if isinstance(value, Mapping):
        return {key: _checked(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_checked(item, f"{path}.{index}") for index, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path | DottedPath):
        return str(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    raise InputError(f"{path} is a {type(value).__name__} ({value!r}), which a config file cannot hold")


def _check_keys(value: Any, path: str) -> None:
    """Refuse keys that JSON would load as strings, such as 0 as "0"."""
    if not isinstance(value, dict | list | tuple):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and not isinstance(key, str):
            raise InputError(
                f"{path or 'the config'} has the key {key!r}, and keys in JSON are strings; "
                "dump this config to .yaml or .py"
            )
        _check_keys(item, f"{path}.{key}" if path else str(key))


class _Dumper(yaml.SafeDumper):
    """Safe YAML with tuples and without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
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


def _source(value: Any, column: int, indent: int) -> str:
    """Return Python source of `value`: on one line if it fits, else one item per line.

    Args:
        value: Plain data.
        column: Column at which the value starts.
        indent: Indentation of the line.
    """
    flat = _flat(value)
    if column + len(flat) < WIDTH or not isinstance(value, dict | list | tuple) or not value:
        return flat
    pad = " " * (indent + 4)
    if isinstance(value, dict) and all(map(_is_word, value)):
        head, tail = "dict(", ")"
        items = [f"{pad}{k}={_source(v, len(pad) + len(k) + 1, indent + 4)},\n" for k, v in value.items()]
    elif isinstance(value, dict):
        head, tail = "{", "}"
        items = [f"{pad}{k!r}: {_source(v, len(pad) + len(repr(k)) + 2, indent + 4)},\n" for k, v in value.items()]
    else:
        head, tail = ("[", "]") if isinstance(value, list) else ("(", ")")
        items = [f"{pad}{_source(item, len(pad), indent + 4)},\n" for item in value]
    return f"{head}\n{''.join(items)}{' ' * indent}{tail}"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        if all(map(_is_word, value)):
            return f"dict({', '.join(f'{k}={_flat(v)}' for k, v in value.items())})"
        return f"{{{', '.join(f'{k!r}: {_flat(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def _is_word(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
