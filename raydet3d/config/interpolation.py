"""Blanks: what stands in double braces in a config file, and what comes in its place.

``{{ fileDirname }}``, ``{{ fileBasename }}``, ``{{ fileBasenameNoExtension }}`` and ``{{ fileExtname }}`` are what the
file knows of itself; ``{{_base_.a.b}}`` is a value of the bases; ``{{$NAME:default}}`` is an environment variable: text
inside of quotes, a literal outside of them (``{{'$NAME:80'}}`` too).

A file is parsed with a mark in place of each blank, and the marks are filled when its values are known. So a blank may
hold anything, may stand inside of a longer text, and costs nothing in a comment; and what came from the environment is
known as such when the config is dumped.
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
_BLANK = re.compile(f"(?P<base>{_BASE.pattern})|(?P<env>{_ENV.pattern})")
_TAG = "blank_9d41c6"  # odd enough to stand in no config by itself
_MARK = re.compile(rf"_{_TAG}_(\d+)_")
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
# What a variable's value is looked for inside of other texts from: so many letters; fewer where it names a secret.
_SHORTEST, _SHORTEST_SECRET = 8, 4
_SECRET_NAME = re.compile("KEY|TOKEN|SECRET|PASS|AUTH|CRED", re.IGNORECASE)


class EnvText(str):
    """A text that came from the environment, as long as its file is read; ``written`` is how it stood there."""

    written: str


class EnvInt(int):
    """As ``EnvText``, a whole number."""

    written: str


class EnvFloat(float):
    """As ``EnvText``, a number."""

    written: str


_KINDS: dict[type[Any], type[Any]] = {str: EnvText, int: EnvInt, float: EnvFloat}


@dataclass
class Blank:
    """One pair of double braces.

    Attributes:
        line: Its line.
        base: The key of the bases that it asks for, or None.
        name: Else, the environment variable.
        default: What to take where the variable is not set.
    """

    line: int
    base: str | None = None
    name: str = ""
    default: str = ""

    @property
    def written(self) -> str:
        """The blank as it stands inside of a text."""
        return f"{{{{${self.name}:{self.default}}}}}"

    @property
    def bare(self) -> str:
        """The blank as it stands outside of one."""
        return f"{{{{'${self.name}:{self.default}'}}}}"


@dataclass
class Blanks:
    """The blanks of one file.

    Attributes:
        path: The file.
        text: Its text, with marks.
        items: What the marks stand for.
        found: The environment variables that were set and used.
    """

    path: Path
    text: str
    items: list[Blank]
    found: dict[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> set[str]:
        """The top-level keys of the bases that are read."""
        return {blank.base.partition(".")[0] for blank in self.items if blank.base}

    def fill(self, value: Any, base: Mapping[str, Any]) -> Any:
        """``value`` of a data file with its marks filled, at any depth."""
        if isinstance(value, dict):
            return {self.fill(key, base): self.fill(item, base) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.fill(item, base) for item in value)
        return self.text_of(value, base) if isinstance(value, str) and _MARK.search(value) else value

    def text_of(self, text: str, base: Mapping[str, Any]) -> Any:
        """What a text with marks comes to; a lone blank of the bases keeps its type."""
        lone = _MARK.fullmatch(text)
        if lone and self.items[int(lone[1])].base is not None:
            return self._of_base(self.items[int(lone[1])], base)
        parts = _MARK.split(text)
        filled, written = parts[:1], parts[:1]
        for number, rest in zip(parts[1::2], parts[2::2], strict=True):
            blank = self.items[int(number)]
            value = self._of_env(blank) if blank.base is None else str(self._of_base(blank, base))
            filled += [value, rest]
            written += [blank.written if blank.name in self.found else value, rest]
        used = [self.items[int(number)].name for number in parts[1::2]]
        return self._tainted("".join(filled), "".join(written), used)

    def literal_of(self, number: int, base: Mapping[str, Any], parse: Callable[[str], Any]) -> Any:
        """What a blank outside of quotes comes to.

        Args:
            number: Which.
            base: The merged bases.
            parse: From a text to the literal that it is in this file's language.
        """
        blank = self.items[number]
        if blank.base is not None:
            return self._of_base(blank, base)
        text = self._of_env(blank)
        try:
            value = parse(text)
        except (ValueError, SyntaxError, yaml.YAMLError):
            raise InputError(
                f"{self.path}:{blank.line}: {blank.bare} comes to {text}, which is no literal; "
                "put the braces in quotes to have it as text"
            ) from None
        return self._tainted(value, blank.bare, [blank.name])

    def _of_base(self, blank: Blank, base: Mapping[str, Any]) -> Any:
        here: Any = base
        for step in str(blank.base).split("."):
            inside = isinstance(here, Mapping) and step in here
            listed = isinstance(here, list | tuple) and step.isdigit() and int(step) < len(here)
            if not inside and not listed:
                raise InputError(
                    f"{self.path}:{blank.line}: {{{{_base_.{blank.base}}}}}: the bases have no {blank.base!r}"
                )
            here = here[step] if inside else here[int(step)]
        return copy.deepcopy(here)

    def _of_env(self, blank: Blank) -> str:
        value = os.environ.get(blank.name)
        if value:
            self.found[blank.name] = value
            return value
        if not blank.default:
            raise InputError(
                f"{self.path}:{blank.line}: the environment variable {blank.name} is not set, "
                f"and {blank.written} has no default"
            )
        return _unescaped(blank.default)

    def _tainted(self, value: Any, written: str, names: list[str]) -> Any:
        """The value, with how it was written where a variable gave it."""
        kind = _KINDS.get(type(value))
        if kind is None or not any(name in self.found for name in names):
            return value
        marked = kind(value)
        marked.written = written
        return marked


def read_blanks(path: Path, text: str) -> Blanks:
    """Fill in what the file knows of itself, and put marks in place of the other blanks."""
    own = {
        "fileDirname": path.parent.as_posix(),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    text = re.sub(r"\{\{\s*(" + "|".join(own) + r")\s*\}\}", lambda found: own[found[1]], text)
    items: list[Blank] = []

    def mark(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start()) + 1
        if found["base"]:
            items.append(Blank(line, base=found["key"]))
        else:
            items.append(Blank(line, name=found["name"], default=found["default"]))
        return f"_{_TAG}_{len(items) - 1}_"

    return Blanks(path, _BLANK.sub(mark, text), items)


# ----------------------------------------------------------------------------------------------- in each language


def fill_calls(tree: ast.AST) -> ast.AST:
    """The tree of a python file with calls, ``__fill__(text or number)``, in place of its marks."""
    filled: ast.AST = _Filler().visit(tree)
    return ast.fix_missing_locations(filled)


class _Filler(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        # A docstring is no value: like a comment, it asks for nothing.
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        mark = _MARK.fullmatch(node.id)
        return _call(node, int(mark[1])) if mark else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        has = isinstance(node.value, str) and _MARK.search(node.value)
        return _call(node, str(node.value)) if has else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values: list[ast.expr] = []
        for part in node.values:
            new = self.visit(part)
            values.append(ast.copy_location(ast.FormattedValue(new, -1), part) if isinstance(new, ast.Call) else new)
        return ast.copy_location(ast.JoinedStr(values), node)


def _call(node: ast.expr, argument: str | int) -> ast.expr:
    call = ast.Call(ast.Name(FILL, ast.Load()), [ast.Constant(argument)], [])
    return ast.copy_location(call, node)


def python_filler(blanks: Blanks, base: Mapping[str, Any]) -> Callable[[str | int], Any]:
    """What the calls that ``fill_calls`` makes come to."""

    def fill(mark: str | int) -> Any:
        if isinstance(mark, str):
            return blanks.text_of(mark, base)
        return blanks.literal_of(mark, base, ast.literal_eval)

    return fill


def json_marks(blanks: Blanks) -> str:
    """The text of a JSON file, in which marks outside of quotes are texts of their own (``bare``)."""
    pieces: list[str] = []
    at = 0
    for found in [*_JSON_TEXT.finditer(blanks.text), None]:
        end = len(blanks.text) if found is None else found.start()
        pieces.append(_MARK.sub(rf'"<{_TAG} \1>"', blanks.text[at:end]))
        if found is not None:
            pieces.append(found[0])
            at = found.end()
    return "".join(pieces)


def bare(text: str) -> str:
    """A text of a data file that stands without quotes: where it is a mark and nothing else, it is a literal's."""
    return _MARK.sub(rf"<{_TAG} \1>", text) if _MARK.fullmatch(text) else text


def fill_data(blanks: Blanks, value: Any, base: Mapping[str, Any], suffix: str) -> Any:
    """The values of a data file, marks of both kinds filled."""
    parse: Callable[[str], Any] = json.loads if suffix == ".json" else yaml.safe_load

    def literals(here: Any) -> Any:
        if isinstance(here, dict):
            return {key: literals(item) for key, item in here.items()}
        if isinstance(here, list | tuple):
            return type(here)(literals(item) for item in here)
        found = re.fullmatch(rf"<{_TAG} (\d+)>", here) if isinstance(here, str) else None
        return blanks.literal_of(int(found[1]), base, parse) if found else here

    return blanks.fill(literals(value), base) if blanks.items else value


# -------------------------------------------------------------------------------------------------- what came of it

Place = tuple[str | int, ...]
Written = dict[Place, tuple[Any, str]]
"""By place: the value that the environment gave, and how it was written."""


def take_written(values: Any, found: Mapping[str, str]) -> tuple[Any, Written]:
    """Plain values, and how those that the environment gave were written.

    Also a text that was computed from a variable's value (a path below a root, a header round a key) is found, by the
    value inside of it; short values of variables that name no secret are not looked for, since they occur anyway.

    Args:
        values: A config's values; not changed.
        found: The environment variables that were used.
    """
    written: Written = {}
    telling = [
        (name, value)
        for name, value in found.items()
        if len(value) >= (_SHORTEST_SECRET if _SECRET_NAME.search(name) else _SHORTEST)
    ]
    inner = sorted(telling, key=lambda item: -len(item[1]))

    def plain(here: Any, place: Place) -> Any:
        if isinstance(here, dict):
            return type(here)({key: plain(item, (*place, key)) for key, item in here.items()})
        if type(here) in (list, tuple):
            return type(here)(plain(item, (*place, number)) for number, item in enumerate(here))
        if isinstance(here, EnvText | EnvInt | EnvFloat):
            value = next(kind for kind in _KINDS if isinstance(here, kind))(here)
            written[place] = value, here.written
            return value
        if isinstance(here, str):
            text = here
            for name, part in inner:
                text = text.replace(part, f"{{{{${name}:}}}}")
            if text != here:
                written[place] = here, text
        return here

    return (plain(values, ()), written) if found else (values, written)


def put_written(values: Any, written: Mapping[Place, tuple[Any, str]], bare: dict[str, str] | None = None) -> Any:
    """``values`` with what the environment gave as it was written, where it still has the value that it was given.

    Args:
        values: Plain values.
        written: What the environment gave.
        bare: Where given, a blank outside of quotes becomes a text that can be looked for in the dumped config, and is
            entered here by this text; else it becomes its own text.
    """

    def put(here: Any, place: Place) -> Any:
        if isinstance(here, dict):
            return {key: put(item, (*place, key)) for key, item in here.items()}
        if isinstance(here, list | tuple):
            return type(here)(put(item, (*place, number)) for number, item in enumerate(here))
        value, text = written.get(place, (None, None))
        if text is None or value != here:
            return here
        if isinstance(here, str) or bare is None:
            return text
        mark = f"_{_TAG}_{len(bare)}_"
        bare[mark] = text
        return mark

    return put(values, ()) if written else values


def _unescaped(text: str) -> str:
    """A default as the string literal round it would have it."""
    if "\\" not in text:
        return text
    try:
        return str(ast.literal_eval(f'"""{text}"""'))
    except (ValueError, SyntaxError):
        return text
