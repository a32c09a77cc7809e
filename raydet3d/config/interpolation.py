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
from typing import Any

import yaml

from raydet3d.errors import InputError

FILL = "__fill__"
_BASE = re.compile(r"\{\{\s*_base_\.(?P<key>[\w.]+)\s*\}\}")
_ENV = re.compile(r"""\{\{(?P<quote>['"]?)\s*\$(?P<name>\w+)\s*:\s*(?P<default>.*?)\s*(?P=quote)\}\}""")
_PLACEHOLDER = re.compile(f"(?P<base>{_BASE.pattern})|(?P<env>{_ENV.pattern})")
_TAG = "placeholder_9d41c6"  # a string that no config contains
_MARKER = re.compile(rf"_{_TAG}_(\d+)_")
_UNQUOTED = re.compile(rf"<{_TAG} (\d+)>")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# A variable's value is found inside other strings from this length on; a shorter one if the name is that of a secret.
_MIN_LENGTH, _MIN_SECRET_LENGTH = 8, 4
_SECRET_NAME = re.compile("KEY|TOKEN|SECRET|PASS|AUTH|CRED", re.IGNORECASE)


class _FromEnv:
    """A value that came from the environment, while its file is read; `reference` is the placeholder as written."""

    reference: str


class _EnvStr(_FromEnv, str):
    pass


class _EnvInt(_FromEnv, int):
    pass


class _EnvFloat(_FromEnv, float):
    pass


_FROM_ENV: dict[type, Any] = {str: _EnvStr, int: _EnvInt, float: _EnvFloat}


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

    def fill(self, value: Any, base: Mapping[str, Any]) -> Any:
        """Return `value` of a YAML or JSON file with its markers replaced, at any depth."""
        if isinstance(value, dict):
            return {self.fill(key, base): self.fill(item, base) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.fill(item, base) for item in value)
        return self.fill_string(value, base) if isinstance(value, str) and _MARKER.search(value) else value

    def fill_string(self, text: str, base: Mapping[str, Any]) -> Any:
        """Return a string with its markers replaced; a single placeholder of the bases keeps its type."""
        whole = _MARKER.fullmatch(text)
        if whole and self.items[int(whole[1])].base is not None:
            return self._base_value(self.items[int(whole[1])], base)
        parts = _MARKER.split(text)
        filled, reference = parts[:1], parts[:1]
        for number, rest in zip(parts[1::2], parts[2::2], strict=True):
            item = self.items[int(number)]
            value = self._env_value(item) if item.base is None else str(self._base_value(item, base))
            filled += [value, rest]
            reference += [item.reference if item.name in self.env else value, rest]
        names = [self.items[int(number)].name for number in parts[1::2]]
        return self._with_reference("".join(filled), "".join(reference), names)

    def fill_literal(self, number: int, base: Mapping[str, Any], parse: Callable[[str], Any]) -> Any:
        """Return the value of a placeholder outside of quotes.

        Args:
            number: Its index in `items`.
            base: The merged bases.
            parse: From a text to the literal that it is in this file's language.
        """
        item = self.items[number]
        if item.base is not None:
            return self._base_value(item, base)
        text = self._env_value(item)
        try:
            value = parse(text)
        except (ValueError, SyntaxError, yaml.YAMLError):
            raise InputError(
                f"{self.path}:{item.line}: {item.literal_reference} is replaced by {text}, which is no literal; "
                "put the braces in quotes for a string"
            ) from None
        return self._with_reference(value, item.literal_reference, [item.name])

    def _base_value(self, item: Placeholder, base: Mapping[str, Any]) -> Any:
        here: Any = base
        for step in str(item.base).split("."):
            inside = isinstance(here, Mapping) and step in here
            listed = isinstance(here, list | tuple) and step.isdigit() and int(step) < len(here)
            if not inside and not listed:
                written = f"{{{{_base_.{item.base}}}}}"
                raise InputError(f"{self.path}:{item.line}: {written}: the bases have no {item.base!r}")
            here = here[step] if inside else here[int(step)]
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
        raise InputError(
            f"{self.path}:{item.line}: the environment variable {item.name} is not set, and {item.reference} has no "
            f"default{more}"
        )

    def _with_reference(self, value: Any, reference: str, names: list[str]) -> Any:
        """The value, marked with the placeholder as written if an environment variable gave it."""
        kind = _FROM_ENV.get(type(value))
        if kind is None or not any(name in self.env for name in names):
            return value
        marked = kind(value)
        marked.reference = reference
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
        if found["base"]:
            items.append(Placeholder(line, base=found["key"]))
        else:
            items.append(Placeholder(line, name=found["name"], default=found["default"]))
        return f"_{_TAG}_{len(items) - 1}_"

    return Placeholders(path, source, _PLACEHOLDER.sub(mark, text), items, require_env)


# ----------------------------------------------------------------------------------------------------- Python files


def insert_fill_calls(tree: ast.AST) -> ast.AST:
    """Return the tree of a Python file with calls `__fill__(string or number)` in place of its markers."""
    filled: ast.AST = _InsertFillCalls().visit(tree)
    return ast.fix_missing_locations(filled)


class _InsertFillCalls(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        # A docstring is no value: like a comment, it needs no variable.
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        marker = _MARKER.fullmatch(node.id)
        return _call(node, int(marker[1])) if marker else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        has_marker = isinstance(node.value, str) and _MARKER.search(node.value)
        return _call(node, str(node.value)) if has_marker else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values: list[ast.expr] = []
        for part in node.values:
            new = self.visit(part)
            values.append(ast.copy_location(ast.FormattedValue(new, -1), part) if isinstance(new, ast.Call) else new)
        return ast.copy_location(ast.JoinedStr(values), node)


def _call(node: ast.expr, argument: str | int) -> ast.expr:
    call = ast.Call(ast.Name(FILL, ast.Load()), [ast.Constant(argument)], [])
    return ast.copy_location(call, node)


def fill_function(placeholders: Placeholders, base: Mapping[str, Any]) -> Callable[[str | int], Any]:
    """Return the function that the calls inserted by `insert_fill_calls` call."""

    def fill(marker: str | int) -> Any:
        if isinstance(marker, str):
            return placeholders.fill_string(marker, base)
        return placeholders.fill_literal(marker, base, ast.literal_eval)

    return fill


# ---------------------------------------------------------------------------------------------- YAML and JSON files


def quote_markers(placeholders: Placeholders) -> str:
    """Return the text of a JSON file in which markers outside of strings are strings of their own."""
    pieces: list[str] = []
    at = 0
    for found in [*_JSON_STRING.finditer(placeholders.text), None]:
        end = len(placeholders.text) if found is None else found.start()
        pieces.append(_MARKER.sub(rf'"<{_TAG} \1>"', placeholders.text[at:end]))
        if found is not None:
            pieces.append(found[0])
            at = found.end()
    return "".join(pieces)


def mark_unquoted(text: str) -> str:
    """Return an unquoted YAML string; one that is a single marker is marked as a literal."""
    return _MARKER.sub(rf"<{_TAG} \1>", text) if _MARKER.fullmatch(text) else text


def fill_data(placeholders: Placeholders, value: Any, base: Mapping[str, Any], suffix: str) -> Any:
    """Return the values of a YAML or JSON file with the markers of both kinds replaced."""
    parse: Callable[[str], Any] = json.loads if suffix == ".json" else yaml.safe_load

    def literals(here: Any) -> Any:
        if isinstance(here, dict):
            return {key: literals(item) for key, item in here.items()}
        if isinstance(here, list | tuple):
            return type(here)(literals(item) for item in here)
        found = _UNQUOTED.fullmatch(here) if isinstance(here, str) else None
        return placeholders.fill_literal(int(found[1]), base, parse) if found else here

    return placeholders.fill(literals(value), base) if placeholders.items else value


# ----------------------------------------------------------------------------------------- references in dumped configs

Place = tuple[str | int, ...]
References = dict[Place, tuple[Any, str]]
"""By place in the config: the value that the environment gave, and the placeholder as written."""


def extract_references(values: Any, env: Mapping[str, str]) -> tuple[Any, References]:
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

    def plain(here: Any, place: Place) -> Any:
        if isinstance(here, dict):
            return type(here)({key: plain(item, (*place, key)) for key, item in here.items()})
        if type(here) in (list, tuple):
            return type(here)(plain(item, (*place, number)) for number, item in enumerate(here))
        if isinstance(here, _FromEnv):
            value = next(kind for kind in _FROM_ENV if isinstance(here, kind))(here)
            references[place] = value, here.reference
            return value
        if isinstance(here, str):
            text = here
            for name, part in searched:
                text = text.replace(part, f"{{{{${name}:}}}}")
            if text != here:
                references[place] = here, text
        return here

    return (plain(values, ()), references) if env else (values, references)


def restore_references(
    values: Any, references: Mapping[Place, tuple[Any, str]], literals: dict[str, str] | None = None
) -> Any:
    """Return `values` with placeholders in place of what came from the environment and has not changed since.

    Args:
        values: Plain values.
        references: From `extract_references`.
        literals: If given, a placeholder outside of quotes becomes a string to be replaced in the dumped config, and is
            entered here by this string; else it becomes a string itself.
    """

    def put(here: Any, place: Place) -> Any:
        if isinstance(here, dict):
            return {key: put(item, (*place, key)) for key, item in here.items()}
        if isinstance(here, list | tuple):
            return type(here)(put(item, (*place, number)) for number, item in enumerate(here))
        value, text = references.get(place, (None, None))
        if text is None or value != here:
            return here
        if isinstance(here, str) or literals is None:
            return text
        marker = f"_{_TAG}_{len(literals)}_"
        literals[marker] = text
        return marker

    return put(values, ()) if references else values


def _unescaped(text: str) -> str:
    """A default as the string literal around it would have it."""
    if "\\" not in text:
        return text
    try:
        return str(ast.literal_eval(f'"""{text}"""'))
    except (ValueError, SyntaxError):
        return text
