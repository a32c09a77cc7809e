"""The line of each key in a config file, at any depth.

Lines are read from the source without running it: of `dict(...)`, `{...}`, lists, and names of such variables, but not
of computed values, for which the line of the enclosing key is used.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

import yaml

from raydet3d.config.config_dict import DELETE

BASE = "_base_"
BASE_VARIABLES = "_base_variables_"
Lines: TypeAlias = dict[str, int]
"""The line of each dotted key."""
T = TypeVar("T")


def nearest_line(lines: Mapping[str, T], key: str) -> T | None:
    """Return the line of a dotted key, or of the nearest enclosing key that has one."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key)


def merged_lines(files: Iterable[tuple[str, Lines]]) -> dict[str, str]:
    """Return `file:line` where each dotted key of a chain of files was set last.

    Keys that a `_delete_` drops are dropped here too; the `_delete_` itself is kept.

    Args:
        files: Each file with its lines, bases first.
    """
    places: dict[str, str] = {}
    for file, lines in files:
        for gone in [key.removesuffix(DELETE) for key in lines if key.endswith(f".{DELETE}")]:
            places = {key: place for key, place in places.items() if not key.startswith(gone)}
        places |= {key: f"{file}:{number}" for key, number in lines.items()}
    return places


def yaml_lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the dotted keys of a YAML or JSON document with their lines."""
    items: list[tuple[object, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        items = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        items = [(number, item, item) for number, item in enumerate(node.value)]
    for name, written, value in items:
        yield f"{prefix}{name}", written.start_mark.line + 1
        yield from yaml_lines(value, f"{prefix}{name}.")


# ------------------------------------------------------------------------------------------------------ Python files


def python_lines(tree: ast.Module) -> Lines:
    """Return the lines of a Python config's variables and of the keys in them.

    An assignment to `_base_.model.x` is one to `model.x`.
    """
    lines: Lines = {}
    for node in _statements(tree.body):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    _set(lines, target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                _set(lines, target, value)
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=target, attr="update" | "merge")) as call):
                # `model.update(dict(...), a=1)` and `model.merge(dict(...))` add the keys of `dict(dict(...), a=1)`.
                given = ast.Call(ast.Name("dict", ast.Load()), call.args, call.keywords)
                _enter(lines, _key(target).removeprefix(f"{BASE}."), call.lineno, _inside(given, lines))
    return lines


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _statements(getattr(node, part, []))


def _set(lines: Lines, target: ast.expr, value: ast.expr) -> None:
    """Enter the lines of an assignment in place of those of the earlier value."""
    key = _key(target).removeprefix(f"{BASE}.")
    inner = _inside(value, lines)
    for name in [key, *_below(lines, key)]:
        lines.pop(name, None)
    _enter(lines, key, target.lineno, inner)


def _enter(lines: Lines, key: str, number: int, inner: Lines) -> None:
    """Add lines below a key; the key and those around it get a line where they have none."""
    if key in ("", BASE):
        return
    for end in [at for at, letter in enumerate(key) if letter == "."]:
        lines.setdefault(key[:end], number)
    lines.setdefault(key, number)
    lines.update(_nested(key, inner))


def _nested(key: str, inner: Lines) -> Lines:
    return {f"{key}.{name}": number for name, number in inner.items()}


def _below(lines: Lines, key: str) -> list[str]:
    return [name for name in lines if name.startswith(f"{key}.")]


def _key(node: ast.expr) -> str:
    """Return `model.neck.0` for `model.neck[0]`; an empty string for other expressions."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=outer, attr=name) | ast.Subscript(value=outer, slice=ast.Constant(value=name)):
            key = _key(outer)
            return f"{key}.{name!s}" if key else ""
    return ""


def _inside(node: ast.expr, lines: Lines) -> Lines:
    """Return the lines of the keys in an expression, relative to it."""
    key = _key(node)
    if key:
        return {name[len(key) + 1 :]: lines[name] for name in _below(lines, key)}
    inner: Lines = {}
    for name, number, value in _items(node):
        below = _inside(value, lines)
        inner |= below if name is None else {name: number} | _nested(name, below)
    return inner


def _items(node: ast.expr) -> Iterator[tuple[str | None, int, ast.expr]]:
    """Yield key, line and value of what a dict or list is written of; the key is None where a dict is merged in."""
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=args, keywords=keywords):
            yield from ((None, given.lineno, given) for given in args)
            yield from ((keyword.arg, keyword.lineno, keyword.value) for keyword in keywords)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if key is None:
                    yield None, value.lineno, value
                elif isinstance(key, ast.Constant):
                    yield str(key.value), key.lineno, value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            yield from ((str(number), item.lineno, item) for number, item in enumerate(items))
