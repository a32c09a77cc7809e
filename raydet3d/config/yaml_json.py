"""Config files in YAML and JSON."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from raydet3d.config.config_dict import ConfigDict, ConfigValue
from raydet3d.config.config_file import ConfigFile, ParsedFile, base_variables_of, bases_of
from raydet3d.config.interpolation import Placeholders, mark_unquoted, quote_markers
from raydet3d.config.source_map import BASE, BASE_VARIABLES, Lines, yaml_lines
from raydet3d.errors import InputError


class _Loader(yaml.SafeLoader):
    """Safe YAML with two additions: `1e-4` is a number, and tuples are read back as `dump` writes them."""


_MAX_VALUES = 1_000_000
_MAX_DEPTH = 500
_TOO_DEEP = "lists and dicts are nested too deeply"

# YAML 1.1 takes `1e-4`, without a dot, for text.
SHORT_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(*SHORT_FLOAT)


def _tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    return mark_unquoted(text) if node.style is None else text


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def read_yaml(placeholders: Placeholders, overrides: Mapping[str, ConfigValue]) -> ParsedFile:
    """Parse a YAML file."""
    path = placeholders.path
    _check_depth(path, placeholders.text)
    try:
        tree = yaml.compose(placeholders.text, _Loader)
        _check_tree(path, tree)
        values = yaml.load(placeholders.text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}{line}: {why}") from error
    except RecursionError:
        raise InputError(f"{path}: {_TOO_DEEP}") from None
    return _parsed_data(placeholders, values, dict(yaml_lines(tree)), overrides)


def read_json(placeholders: Placeholders, overrides: Mapping[str, ConfigValue]) -> ParsedFile:
    """Parse a JSON file."""
    path, text = placeholders.path, quote_markers(placeholders.text)
    _check_depth(path, text)
    lines: Lines = {}
    try:
        # JSON is YAML but for tabs and a few characters in strings; with those, the lines of keys are not known.
        with suppress(yaml.YAMLError):
            tree = yaml.compose(text.replace("\t", " "), _Loader)
            _check_tree(path, tree)
            lines = dict(yaml_lines(tree))
        values = json.loads(text, object_pairs_hook=lambda pairs: _unique(path, pairs))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: {error.msg}") from error
    except RecursionError:
        raise InputError(f"{path}: {_TOO_DEEP}") from None
    return _parsed_data(placeholders, values, lines, overrides)


def _check_depth(path: Path, text: str) -> None:
    """Refuse deeply nested brackets, over which PyYAML takes a time that grows with the square of the depth."""
    depth = 0
    for bracket in re.findall(r"[][{}]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > _MAX_DEPTH:
            raise InputError(f"{path}: {_TOO_DEEP}")


def _check_tree(path: Path, tree: yaml.Node | None) -> None:
    """Refuse a YAML tree with duplicate keys, or with aliases that refer to themselves or multiply its size.

    Raises:
        InputError: That is so; the message names the lines.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        line = node.start_mark.line + 1
        if id(node) in sizes:
            if sizes[id(node)] == 0:
                raise InputError(f"{path}:{line}: a value contains itself (an alias inside its own anchor)")
            return sizes[id(node)]
        sizes[id(node)] = 0
        inner: list[yaml.Node] = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            seen: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                name = (key.tag, str(key.value))
                if name in seen and name[0] != "tag:yaml.org,2002:merge":
                    here = f"{path}:{key.start_mark.line + 1}"
                    raise InputError(f"{here}: the key {key.value!r} is also on line {seen[name]}; remove one of them")
                seen[name] = key.start_mark.line + 1
                inner.append(value)
        total = 1 + sum(map(size, inner))
        if total > _MAX_VALUES:
            raise InputError(f"{path}:{line}: aliases expand to more than {_MAX_VALUES:,} values")
        sizes[id(node)] = total
        return total

    if tree is not None:
        size(tree)


def _unique(path: Path, pairs: list[tuple[str, ConfigValue]]) -> dict[str, ConfigValue]:
    """Return a JSON object as a dict, for files whose lines YAML's parser does not know."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InputError(f"{path}: the key {name!r} is there twice; remove one of them")
    return found


def _parsed_data(
    placeholders: Placeholders, values: ConfigValue, lines: Lines, overrides: Mapping[str, ConfigValue]
) -> ParsedFile:
    path = placeholders.path
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"{path}: the top level of a config must be a mapping, got a {type(values).__name__}")
    for key in values:
        if not isinstance(key, str):
            raise InputError(f"{path}:{lines.get(str(key), 1)}: a config's keys must be names, got {key!r}")
    own = {key: value for key, value in values.items() if key not in (BASE, BASE_VARIABLES)}
    replaced = {key: value for key, value in overrides.items() if key in own}

    def run(base: ConfigDict) -> ConfigFile:
        filled = placeholders.fill_data(own, base) | copy.deepcopy(replaced)
        return ConfigFile(path, placeholders.source, filled, lines, placeholders.base_keys, placeholders.env)

    bases = placeholders.fill_data(values.get(BASE, []), {})
    inner = base_variables_of(
        path, placeholders.fill_data(values.get(BASE_VARIABLES, {}), {}), lines.get(BASE_VARIABLES)
    )
    found = bases_of(path, bases, lines.get(BASE))
    return ParsedFile(found, set(replaced), run, lines.get(BASE), base_variables=inner)
