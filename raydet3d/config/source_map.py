"""The line of each key in a config file, at any depth.

Lines are read from the source without running it: of `dict(...)`, `{...}`, lists, and names of such variables, but not
of computed values, for which the line of the enclosing key is used.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from raydet3d.config.config_dict import DELETE

BASE = "_base_"


@dataclass
class Line:
    """A value in a file.

    Attributes:
        number: The line of its key.
        inner: The lines of the values in it, by key or index.
    """

    number: int
    inner: dict[str, Line] = field(default_factory=dict)


def python_lines(tree: ast.Module) -> dict[str, Line]:
    """Return the lines of a Python config's variables and of the keys in them.

    An assignment to `_base_.model.x` is one to `model.x`.
    """
    names: dict[str, Line] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                _set(names, target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            _set(names, node.target, node.value)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            _update(names, node.value)
    names.pop(BASE, None)
    return names


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _statements(getattr(node, part, []))


def _set(names: dict[str, Line], target: ast.expr, value: ast.expr) -> None:
    steps = _steps(target)
    if steps:
        place = _place(names, steps, target.lineno)
        place.inner = _inside(value, names)


def _update(names: dict[str, Line], call: ast.Call) -> None:
    """Add the lines of `model.update(dict(...))` and `model.merge(dict(...))`."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("update", "merge"):
        steps = _steps(call.func.value)
        for given in [*call.args, ast.Call(ast.Name("dict", ast.Load()), [], call.keywords)]:
            if steps:
                _place(names, steps, call.lineno, keep=True).inner.update(_inside(given, names))


def _steps(node: ast.expr) -> list[str]:
    """Return the steps of `model.neck[0]`; an empty list for other expressions."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        inner = _steps(node.value)
        return [*inner, node.attr] if inner else []
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        inner = _steps(node.value)
        return [*inner, str(node.slice.value)] if inner else []
    return []


def _place(names: dict[str, Line], steps: list[str], number: int, *, keep: bool = False) -> Line:
    """Return the line at some steps, created as needed; that of the last step becomes `number`."""
    steps = steps[1:] if steps[0] == BASE and len(steps) > 1 else steps
    inner = names
    for step in steps[:-1]:
        inner = inner.setdefault(step, Line(number)).inner
    if keep and steps[-1] in inner:
        return inner[steps[-1]]
    inner[steps[-1]] = Line(number)
    return inner[steps[-1]]


def _inside(node: ast.expr, names: dict[str, Line]) -> dict[str, Line]:
    """Return the lines of the keys in an expression."""
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        steps = _steps(node)
        here: Line | None = Line(0, names)
        for step in steps:
            here = here.inner.get(step) if here else None
        return dict(here.inner) if here and steps else {}
    inner: dict[str, Line] = {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        for given in node.args:
            inner.update(_inside(given, names))
        for keyword in node.keywords:
            more = _inside(keyword.value, names)
            inner.update(more if keyword.arg is None else {keyword.arg: Line(keyword.lineno, more)})
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                inner.update(_inside(value, names))
            elif isinstance(key, ast.Constant):
                inner[str(key.value)] = Line(key.lineno, _inside(value, names))
    elif isinstance(node, ast.List | ast.Tuple):
        for number, item in enumerate(node.elts):
            inner[str(number)] = Line(item.lineno, _inside(item, names))
    return inner


def yaml_lines(node: yaml.Node | None) -> dict[str, Line]:
    """Return the lines of the keys of a YAML or JSON document."""
    if isinstance(node, yaml.MappingNode):
        pairs: list[tuple[str, int, Any]] = [(str(k.value), k.start_mark.line + 1, v) for k, v in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(number), item.start_mark.line + 1, item) for number, item in enumerate(node.value)]
    else:
        return {}
    return {key: Line(line, yaml_lines(value)) for key, line, value in pairs}


def line_of(lines: Mapping[str, Line], key: str) -> int | None:
    """Return the line of a dotted key, or of the nearest enclosing key that has one."""
    number = None
    for step in key.split("."):
        here = lines.get(step)
        if here is None:
            break
        number, lines = here.number, here.inner
    return number


def merged_lines(files: Iterable[tuple[str, dict[str, Line]]]) -> dict[str, str]:
    """Return `file:line` where each dotted key of a chain of files was set last.

    Keys that a `_delete_` drops are dropped here too; the `_delete_` itself is kept.

    Args:
        files: Each file with its lines, bases first.
    """
    places: dict[str, str] = {}
    for file, lines in files:
        mine = {key: f"{file}:{number}" for key, number in flattened(lines)}
        for gone in [key.removesuffix(DELETE) for key in mine if key.endswith(f".{DELETE}")]:
            places = {key: place for key, place in places.items() if not key.startswith(gone)}
        places |= mine
    return places


def flattened(lines: dict[str, Line], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield each dotted key with its line."""
    for key, line in lines.items():
        place = f"{prefix}.{key}" if prefix else key
        yield place, line.number
        yield from flattened(line.inner, place)
