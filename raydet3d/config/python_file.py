"""Config files in Python: parsed, with variable overrides inserted, and run over the values of their bases."""

from __future__ import annotations

import ast
import copy
import os
import traceback
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from raydet3d import compat
from raydet3d.config import pure_python
from raydet3d.config.config_dict import ConfigDict, ConfigValue, to_config
from raydet3d.config.config_file import ConfigFile, ParsedFile, base_variables_of, bases_of
from raydet3d.config.interpolation import FILL, InsertFillCalls, Placeholders
from raydet3d.config.source_map import BASE, BASE_VARIABLES, python_lines
from raydet3d.config.variable_overrides import OVERRIDES, OverrideVariables
from raydet3d.errors import InputError


def read_python(placeholders: Placeholders, overrides: Mapping[str, ConfigValue]) -> ParsedFile:
    """Parse a Python file; it is run when the values of its bases are known."""
    path, text = placeholders.path, placeholders.source
    try:
        tree = ast.parse(placeholders.text, str(path))
    except SyntaxError as error:
        number = error.lineno or 1
        line = ([*text.splitlines(), ""][min(number, text.count("\n") + 1) - 1] or error.text or "").strip()
        raise InputError(f"{path}:{number}: {error.msg}: {line}") from error
    except ValueError as error:  # null bytes, in Python up to 3.11.3
        raise InputError(f"{path}:1: {error}") from error
    lines = python_lines(tree)
    bases: list[str] = []
    base_line = None
    base_variables: dict[str, ConfigValue] = {}
    for node in list(tree.body):
        if isinstance(node, ast.Assign) and any(map(_is_base, node.targets)):
            bases = bases_of(path, _literal(path, BASE, node, placeholders), node.lineno)
            base_line = node.lineno
            tree.body.remove(node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == BASE_VARIABLES:
            values = _literal(path, BASE_VARIABLES, node, placeholders)
            base_variables = base_variables_of(path, values, node.lineno)
            tree.body.remove(node)
    for part in ast.walk(tree):
        if _is_base(part) and not isinstance(part.ctx, ast.Load):
            raise InputError(f"{path}:{part.lineno}: {BASE} must be assigned alone, at the top level")
    pure = pure_python.take_bases(path, tree) if base_line is None and pure_python.is_pure(tree) else None
    names = _find_names(tree)
    if pure is not None:
        tree = pure_python.LazyImports(path).visit(tree)
    has_aliases = pure_python.imports_aliases(tree)  # the remaining imports are executed
    variables = OverrideVariables(overrides)
    code = _with_fill_calls(variables.visit(tree))

    def run(base: ConfigDict) -> ConfigFile:
        namespace: dict[str, Any] = {
            "__file__": str(path),
            "__name__": f"config:{path.stem}",
            OVERRIDES: copy.deepcopy(dict(overrides)),
            FILL: partial(placeholders.fill, base=base),
            pure_python.MAKE_NAME: pure_python.Name,
        }
        namespace.update({BASE: base} if pure is None else base)
        if has_aliases:
            compat.install()
        try:
            exec(compile(code, str(path), "exec"), namespace)  # a Python config is code
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # a config's code may raise anything
            given = ", ".join(f"{key}={overrides[key]!r}" for key in sorted(variables.overridden))
            raise InputError(_failure(path, error) + (f" (with the override {given})" if given else "")) from error
        there = {key: value for key, value in namespace.items() if not key.startswith("__") and key != BASE}
        values = {
            key: to_config(value)
            for key, value in there.items()
            if key not in names.imported and is_value(value) and (pure is None or key in names.assigned)
        }
        env = placeholders.env | {name: os.environ[name] for name in names.env if os.environ.get(name)}
        found = ConfigFile(path, text, values, lines, names.used | placeholders.base_keys, env)
        if base_line is None:
            found.namespace = {key: pure_python.copy_containers(value) for key, value in there.items()}
            found.imported = names.imported
        return found

    return ParsedFile(bases, variables.overridden, run, base_line, pure, base_variables)


def _with_fill_calls(tree: ast.AST) -> Any:
    return ast.fix_missing_locations(InsertFillCalls().visit(tree))


def _literal(path: Path, name: str, node: ast.Assign, placeholders: Placeholders) -> Any:
    """Return the value of `_base_ = ...` or `_base_variables_ = ...`, which may use no names but `dict`."""
    try:
        code = compile(_with_fill_calls(ast.Expression(node.value)), str(path), "eval")
        return eval(code, {"__builtins__": {"dict": dict}, FILL: partial(placeholders.fill, base={})})
    except InputError:
        raise
    except Exception as error:  # any failure means that it is no literal
        what = "path or list of paths" if name == BASE else "dict"
        raise InputError(f"{path}:{node.lineno}: {name} must be a literal {what} ({error})") from error


def _failure(path: Path, error: BaseException) -> str:
    """Return `file:line: message` for an error in a config's own code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f":{frames[-1].lineno}" if frames else ""
    source = f" in `{frames[-1].line}`" if frames and frames[-1].line else ""
    what = str(error) if isinstance(error, AttributeError) else f"{type(error).__name__}: {error}"
    return f"{path}{line}: {what}{source}"


def is_value(value: object) -> bool:
    """Whether a module-level value belongs to the config, unlike modules, functions and classes."""
    return not isinstance(
        value, types.ModuleType | types.FunctionType | types.BuiltinFunctionType | types.MethodType | type
    )


def _is_base(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and node.id == BASE


@dataclass
class _Names:
    """The names in a Python file.

    Attributes:
        assigned: Names that are assigned to.
        used: Names that are read, as `lr`, `_base_.lr` or `_base_['lr']`.
        imported: Names that are imported.
        env: Names of environment variables that are read.
    """

    assigned: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    env: set[str] = field(default_factory=set)


def _find_names(tree: ast.Module) -> _Names:
    names = _Names()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                names.used.add(name)
            case ast.Name(id=name):
                names.assigned.add(name)
            case ast.Attribute(value=outer, attr=name, ctx=ast.Load()) if _is_base(outer):
                names.used.add(name)
            case ast.Subscript(value=outer, slice=ast.Constant(value=name)):
                if _is_base(outer) and isinstance(node.ctx, ast.Load):
                    names.used.add(str(name))
                elif ast.unparse(outer).endswith("environ"):
                    names.env.add(str(name))
            case ast.Call(func=func, args=[ast.Constant(value=name), *_]):
                if ast.unparse(func).endswith(("environ.get", "environ.pop", "getenv")):
                    names.env.add(str(name))
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.imported |= {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
    return names
