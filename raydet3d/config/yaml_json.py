"""Config files that are data: YAML and JSON."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from raydet3d.config.config_dict import ConfigDict
from raydet3d.config.config_file import Draft, Source, bases_of
from raydet3d.config.interpolation import Blanks, bare, fill_data, json_marks, read_blanks
from raydet3d.config.source_map import BASE, Line, yaml_lines
from raydet3d.errors import InputError


class _Loader(yaml.SafeLoader):
    """Safe YAML with two additions: ``1e-4`` is a number, and tuples come back as written by ``dump``."""


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
    return bare(text) if node.style is None else text


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def read_yaml(path: Path, text: str, knobs: Mapping[str, Any]) -> Draft:
    """Parse a YAML file."""
    blanks = read_blanks(path, text)
    try:
        values = yaml.load(blanks.text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}{line}: {why}") from error
    try:
        places = yaml_lines(yaml.compose(blanks.text, _Loader))
    except RecursionError:
        raise InputError(f"{path}: a value holds itself (an alias inside of its own anchor)") from None
    return _data_draft(blanks, text, values, places, knobs)


def read_json(path: Path, text: str, knobs: Mapping[str, Any]) -> Draft:
    """Parse a JSON file."""
    blanks = read_blanks(path, text)
    marked = json_marks(blanks)
    try:
        values = json.loads(marked)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: {error.msg}") from error
    try:
        places = yaml_lines(yaml.compose(marked, _Loader))
    except yaml.YAMLError:  # JSON that is no YAML (tabs): its lines are not known
        places = {}
    return _data_draft(blanks, text, values, places, knobs)


def _data_draft(blanks: Blanks, text: str, values: Any, places: dict[str, Line], knobs: Mapping[str, Any]) -> Draft:
    path = blanks.path
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"{path}: a config is a mapping at its top, got a {type(values).__name__}")
    lines = {key: line.number for key, line in places.items()}
    for key in values:
        if not isinstance(key, str):
            raise InputError(f"{path}:{lines.get(str(key), 1)}: a config's keys are names, got {key!r}")
    own = {key: value for key, value in values.items() if key != BASE}
    turned = {key for key in own if key in knobs}

    def run(base: ConfigDict) -> Source:
        filled = fill_data(blanks, own, base, path.suffix) | {key: copy.deepcopy(knobs[key]) for key in turned}
        return Source(path, text, filled, lines, blanks.asked, places, blanks.found)

    bases = fill_data(blanks, values.get(BASE, []), {}, path.suffix)
    return Draft(bases_of(path, bases, lines.get(BASE)), turned, run, lines.get(BASE))
