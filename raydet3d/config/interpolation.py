"""Interpolation: placeholders in double braces in a config file, and the values that replace them.

`{{ fileDirname }}`, `{{ fileBasename }}`, `{{ fileBasenameNoExtension }}` and `{{ fileExtname }}` are parts of the
file's path; `{{_base_.a.b}}` is a value of the base configs; `{{$NAME:default}}` is an environment variable: a string
inside quotes, a literal outside of them (`{{'$NAME:80'}}` too).

A file is parsed with a marker in place of each placeholder, and the markers are replaced when the values of its bases
are known. So a placeholder may have a value of any type, may be part of a longer string, costs nothing in a comment,
and what came from the environment is known when the config is dumped.
"""

from __future__ import annotations

import ast
import copy
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from raydet3d.config.config_dict import ConfigValue, Place, map_leaves
from raydet3d.errors import InputError, InputKeyError

FILL = "__fill__"
_PLACEHOLDER = re.compile(
    r"""\{\{\s*_base_\.(?P<base>[\w.]+)\s*\}\}
    |\{\{(?P<quote>['"]?)\s*\$(?P<name>\w+)\s*:\s*(?P<default>.*?)\s*(?P=quote)\}\}""",
    re.VERBOSE,
)
_TAG = "placeholder_9d41c6"  # a string that no config contains
_MARKER = re.compile(rf"_{_TAG}_(\d+)_")
_UNQUOTED = re.compile(rf"<{_TAG} (\d+)>")
_JSON_STRING_OR_MARKER = re.compile(rf'("(?:[^"\\]|\\.)*")|{_MARKER.pattern}')
# A variable's value is found inside other strings from this length on; a shorter one if the name is that of a secret.
_MIN_LENGTH, _MIN_SECRET_LENGTH = 8, 4
_SECRET_NAME = re.compile("KEY|TOKEN|SECRET|PASS|AUTH|CRED", re.IGNORECASE)

Scalar: TypeAlias = str | int | float
References: TypeAlias = dict[Place, tuple[Scalar, str]]
"""By place in the config: the value that the environment gave, and the placeholder as written."""


class _FromEnv:
    """A value that came from the environment, while its file is read.

    Attributes:
        plain: The value.
        reference: The placeholder as written.
    """

    plain: Scalar
    reference: str


class _EnvStr(_FromEnv, str):
    pass


class _EnvInt(_FromEnv, int):
    pass


class _EnvFloat(_FromEnv, float):
    pass


_FROM_ENV: dict[type, Callable[[Any], _FromEnv]] = {str: _EnvStr, int: _EnvInt, float: _EnvFloat}


@dataclass
class Placeholder:
    """One pair of double braces.

    Attributes:
        line: Its line.
        base: The key of the bases that it names, or None.
        name: Else, the environment variable.
        default: The value where the variable is not set.
    """

    line: int
    base: str | None = None
    name: str = ""
    default: str = ""

    @property
    def reference(self) -> str:
        """The placeholder as written inside a string."""
        return f"{{{{${self.name}:{self.default}}}}}"

    @property
    def literal_reference(self) -> str:
        """The placeholder as written outside of a string."""
        return f"{{{{'${self.name}:{self.default}'}}}}"


@dataclass
class Placeholders:
    """A file's text and its placeholders.

    Attributes:
        path: The file.
        source: Its text.
        text: Its text with markers.
        items: The placeholders that the markers stand for.
        require_env: Whether a variable that is not set and has no default is an error; else it is kept as written.
        env: The environment variables that were set and used.
    """

    path: Path
    source: str
    text: str
    items: list[Placeholder]
    require_env: bool = True
    env: dict[str, str] = field(default_factory=dict)

    @property
    def base_keys(self) -> set[str]:
        """The top-level keys of the bases that are read."""
        return {item.base.partition(".")[0] for item in self.items if item.base}

    def fill(self, marker: str | int, base: Mapping[str, ConfigValue]) -> Any:
        """Return the value of a string with markers, or of a placeholder outside of quotes, given by its number."""
        return self._fill_string(marker, base) if isinstance(marker, str) else self._fill_literal(marker, base)

    def fill_data(self, value: ConfigValue, base: Mapping[str, ConfigValue]) -> Any:
        """Return `value` of a YAML or JSON file with its markers replaced, at any depth."""
        if isinstance(value, dict):
            return {self.fill_data(key, base): self.fill_data(item, base) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.fill_data(item, base) for item in value)
        if not isinstance(value, str):
            return value
        literal = _UNQUOTED.fullmatch(value)
        return self.fill(int(literal[1]) if literal else value, base)

    def _fill_string(self, text: str, base: Mapping[str, ConfigValue]) -> Any:
        """Return a string with its markers replaced; a single placeholder of the bases keeps its type."""
        found = {number: self.items[int(number)] for number in _MARKER.findall(text)}
        if _MARKER.fullmatch(text) and (item := next(iter(found.values()))).base is not None:
            return self._base_value(item, base)
        values = {
            number: self._env_value(item) if item.base is None else str(self._base_value(item, base))
            for number, item in found.items()
        }
        written = values | {number: item.reference for number, item in found.items() if item.name in self.env}
        filled = _MARKER.sub(lambda marker: values[marker[1]], text)
        reference = _MARKER.sub(lambda marker: written[marker[1]], text)
        return self._with_reference(filled, reference, [item.name for item in found.values()])

    def _fill_literal(self, number: int, base: Mapping[str, ConfigValue]) -> Any:
        """Return the value of a placeholder outside of quotes, which is a literal in this file's language."""
        item = self.items[number]
        if item.base is not None:
            return self._base_value(item, base)
        text = self._env_value(item)
        parsers: dict[str, Callable[[str], Any]] = {".py": ast.literal_eval, ".json": json.loads}
        parse = parsers.get(self.path.suffix, yaml.safe_load)
        try:
            value = parse(text)
        except (ValueError, SyntaxError, yaml.YAMLError):
            raise InputError(
                f"{self.path}:{item.line}: {item.literal_reference} is replaced by {text}, which is no literal; "
                "put the braces in quotes for a string"
            ) from None
        return self._with_reference(value, item.literal_reference, [item.name])

    def _base_value(self, item: Placeholder, base: Mapping[str, ConfigValue]) -> Any:
        here: ConfigValue = base
        for step in str(item.base).split("."):
            if isinstance(here, Mapping) and step in here:
                here = here[step]
            elif isinstance(here, list | tuple) and step.isdigit() and int(step) < len(here):
                here = here[int(step)]
            else:
                written = f"{{{{_base_.{item.base}}}}}"
                raise InputError(f"{self.path}:{item.line}: {written}: the bases have no {item.base!r}")
        return copy.deepcopy(here)

    def _env_value(self, item: Placeholder) -> str:
        value = os.environ.get(item.name)
        if value:
            self.env[item.name] = value
            return value
        if item.default:
            return _unescaped(item.default)
        if not self.require_env:
            return item.reference
        unset = {one.name for one in self.items if one.name and not one.default and not os.environ.get(one.name)}
        also = sorted(unset - {item.name})
        more = f" (also not set, without default: {', '.join(also)})" if also else ""
        raise InputKeyError(
            f"{self.path}:{item.line}: the environment variable {item.name} is not set, and {item.reference} has no "
            f"default{more}"
        )

    def _with_reference(self, value: ConfigValue, reference: str, names: list[str]) -> Any:
        """Return the value, marked with its placeholder if an environment variable gave it."""
        kind = _FROM_ENV.get(type(value))
        if kind is None or self.env.keys().isdisjoint(names):
            return value
        marked: Any = kind(value)
        marked.plain, marked.reference = value, reference
        return marked


def find_placeholders(path: Path, source: str, *, require_env: bool = True) -> Placeholders:
    """Replace the parts of the file's path in a text, and put markers in place of the other placeholders."""
    own = {
        "fileDirname": path.parent.as_posix(),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    text = re.sub(r"\{\{\s*(" + "|".join(own) + r")\s*\}\}", lambda found: own[found[1]], source)
    items: list[Placeholder] = []

    def mark(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start()) + 1
        items.append(Placeholder(line, found["base"], found["name"] or "", found["default"] or ""))
        return f"_{_TAG}_{len(items) - 1}_"

    return Placeholders(path, source, _PLACEHOLDER.sub(mark, text), items, require_env)


def _unescaped(text: str) -> str:
    """Return a default with the escapes of the string literal around it resolved."""
    if "\\" not in text:
        return text
    try:
        return str(ast.literal_eval(f'"""{text}"""'))
    except (ValueError, SyntaxError):
        return text


# ------------------------------------------------------------------------------------------ markers in parsed files


class InsertFillCalls(ast.NodeTransformer):
    """Puts calls `__fill__(string or number)` in place of the markers in a Python file."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Leave docstrings as they are: like comments, they need no variable."""
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Replace a marker outside of quotes."""
        marker = _MARKER.fullmatch(node.id)
        return _call(node, int(marker[1])) if marker else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Replace a string with markers."""
        has_marker = isinstance(node.value, str) and _MARKER.search(node.value)
        return _call(node, str(node.value)) if has_marker else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Replace strings with markers in an f-string, whose parts must be formatted values."""
        parts = [self.visit(part) for part in node.values]
        node.values = [
            ast.copy_location(ast.FormattedValue(part, -1), part) if isinstance(part, ast.Call) else part
            for part in parts
        ]
        return node


def _call(node: ast.expr, argument: str | int) -> ast.expr:
    call = ast.Call(ast.Name(FILL, ast.Load()), [ast.Constant(argument)], [])
    return ast.copy_location(call, node)


def quote_markers(text: str) -> str:
    """Return the text of a JSON file in which markers outside of strings are strings of their own."""
    return _JSON_STRING_OR_MARKER.sub(lambda found: found[1] or f'"<{_TAG} {found[2]}>"', text)


def mark_unquoted(text: str) -> str:
    """Return an unquoted YAML string; one that is a single marker is marked as a literal."""
    return _MARKER.sub(rf"<{_TAG} \1>", text) if _MARKER.fullmatch(text) else text


# ----------------------------------------------------------------------------------------- references in dumped configs


def extract_references(values: Mapping[str, ConfigValue], env: Mapping[str, str]) -> tuple[dict[str, Any], References]:
    """Return plain values, and the placeholders of those that came from the environment.

    A string that was computed from a variable's value (a path below a root folder) is found by the value inside it;
    short values of variables whose name is not that of a secret are not looked for, since they occur by chance.

    Args:
        values: A config's values; not changed.
        env: The environment variables that were used.
    """
    references: References = {}
    searched = [
        (name, value)
        for name, value in sorted(env.items(), key=lambda item: -len(item[1]))
        if len(value) >= (_MIN_SECRET_LENGTH if _SECRET_NAME.search(name) else _MIN_LENGTH)
    ]

    def plain(here: object, place: Place) -> object:
        if isinstance(here, _FromEnv):
            references[place] = here.plain, here.reference
            return here.plain
        if isinstance(here, str):
            text = here
            for name, part in searched:
                text = text.replace(part, f"{{{{${name}:}}}}")
            if text != here:
                references[place] = here, text
        return here

    return (map_leaves(values, plain) if env else dict(values)), references


def restore_references(
    values: object, references: Mapping[Place, tuple[Scalar, str]], literals: dict[str, str] | None = None
) -> Any:
    """Return `values` with placeholders in place of what came from the environment and has not changed since.

    Args:
        values: Plain values.
        references: From `extract_references`.
        literals: If given, a placeholder outside of quotes becomes a string to be replaced in the dumped config, and is
            entered here by this string; else it becomes a string itself.
    """

    def put(here: object, place: Place) -> object:
        value, text = references.get(place, (None, None))
        if text is None or value != here:
            return here
        if isinstance(here, str) or literals is None:
            return text
        marker = f"_{_TAG}_{len(literals)}_"
        literals[marker] = text
        return marker

    return map_leaves(values, put)
