"""Config files in Python: parsed, with variable overrides inserted, and run over the values of their bases."""

from __future__ import annotations

import ast
import copy
import os
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydet3d import compat
from raydet3d.config import pure_python
from raydet3d.config.config_dict import ConfigDict, to_config
from raydet3d.config.config_file import ConfigFile, ParsedFile, bases_of
from raydet3d.config.interpolation import FILL, Placeholders, fill_function, insert_fill_calls
from raydet3d.config.source_map import BASE, python_lines
from raydet3d.errors import InputError

OVERRIDES = "__overrides__"


def read_python(placeholders: Placeholders, overrides: Mapping[str, Any]) -> ParsedFile:
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
    places = python_lines(tree)
    bases: list[str] = []
    base_line = None
    body = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(_is_name(target, BASE) for target in node.targets):
            bases = bases_of(path, _literal(path, node.value, placeholders), node.lineno)
            base_line = node.lineno
        else:
            body.append(node)
    tree.body = body
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and part.id == BASE and not isinstance(part.ctx, ast.Load):
            raise InputError(f"{path}:{part.lineno}: {BASE} must be assigned alone, at the top level")
    pure = None
    if base_line is None and pure_python.is_pure(tree):
        pure = pure_python.take_bases(path, tree)
    names = _Names()
    names.visit(tree)
    if pure is not None:
        tree = pure_python.LazyImports(path).visit(tree)
    has_aliases = pure_python.imports_aliases(tree)  # the remaining imports are executed
    variables = _OverrideVariables(overrides)
    code: Any = insert_fill_calls(variables.visit(tree))

    def run(base: ConfigDict) -> ConfigFile:
        namespace: dict[str, Any] = {
            "__file__": str(path),
            "__name__": f"config:{path.stem}",
            OVERRIDES: copy.deepcopy(dict(overrides)),
            FILL: fill_function(placeholders, base),
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
            if key not in names.imported and is_value(value) and (pure is None or key in names.lines)
        }
        env = placeholders.env | {name: os.environ[name] for name in names.env if os.environ.get(name)}
        found = ConfigFile(path, text, values, names.lines, names.used | placeholders.base_keys, places, env)
        if base_line is None:
            found.namespace, found.imported = (
                {key: pure_python.copy_containers(value) for key, value in there.items()},
                names.imported,
            )
        return found

    return ParsedFile(bases, variables.overridden, run, base_line, pure)


def _literal(path: Path, node: ast.expr, placeholders: Placeholders) -> Any:
    """Return the value of `_base_ = ...`, which may use no names."""
    code: Any = insert_fill_calls(ast.Expression(node))
    try:
        return eval(compile(code, str(path), "eval"), {"__builtins__": {}, FILL: fill_function(placeholders, {})})
    except InputError:
        raise
    except Exception as error:  # any failure means that it is no literal
        raise InputError(f"{path}:{node.lineno}: {BASE} must be a literal path or list of paths ({error})") from error


def _failure(path: Path, error: BaseException) -> str:
    """Return `file:line: message` for an error in a config's own code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f":{frames[-1].lineno}" if frames else ""
    source = f" in `{frames[-1].line}`" if frames and frames[-1].line else ""
    what = str(error) if isinstance(error, AttributeError) else f"{type(error).__name__}: {error}"
    return f"{path}{line}: {what}{source}"


def is_value(value: Any) -> bool:
    """Whether a module-level value belongs to the config, unlike modules, functions and classes."""
    return not isinstance(
        value, types.ModuleType | types.FunctionType | types.BuiltinFunctionType | types.MethodType | type
    )


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


class _Names(ast.NodeVisitor):
    """Collects the lines of module-level names, and the names that are read, imported, or environment variables."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.used: set[str] = set()
        self.imported: set[str] = set()
        self.env: set[str] = set()

    def visit_Call(self, node: ast.Call) -> None:
        asks = ast.unparse(node.func).endswith(("environ.get", "environ.pop", "getenv"))
        if asks and node.args and isinstance(node.args[0], ast.Constant):
            self.env.add(str(node.args[0].value))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.used.add(node.id)
        else:
            self.lines.setdefault(node.id, node.lineno)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if _is_name(node.value, BASE) and isinstance(node.ctx, ast.Load):
            self.used.add(node.attr)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if _is_name(node.value, BASE) and isinstance(node.slice, ast.Constant) and isinstance(node.ctx, ast.Load):
            self.used.add(str(node.slice.value))
        elif isinstance(node.slice, ast.Constant) and ast.unparse(node.value).endswith("environ"):
            self.env.add(str(node.slice.value))
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}

    visit_ImportFrom = visit_Import


class _OverrideVariables(ast.NodeTransformer):
    """Replaces the values that a config assigns to overridden names at module level."""

    def __init__(self, overrides: Mapping[str, Any]) -> None:
        self.overrides = overrides
        self.overridden: set[str] = set()

    def visit_FunctionDef(self, node: ast.AST) -> ast.AST:
        return node  # its names are local

    visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.AST]:
        names = [target.id for target in node.targets if isinstance(target, ast.Name) and target.id in self.overrides]
        inner = {
            part.id
            for target in node.targets
            if isinstance(target, ast.Tuple | ast.List)
            for part in ast.walk(target)
            if isinstance(part, ast.Name) and part.id in self.overrides
        }
        self.overridden |= {*names, *inner}
        others = [target for target in node.targets if not (isinstance(target, ast.Name) and target.id in names)]
        new: list[ast.AST] = []
        if others:
            new.append(ast.copy_location(ast.Assign(others, node.value), node))
        new += [ast.copy_location(self.setting(name), node) for name in (*names, *sorted(inner))]
        return new

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if isinstance(node.target, ast.Name) and node.target.id in self.overrides and node.value is not None:
            self.overridden.add(node.target.id)
            return ast.copy_location(self.setting(node.target.id), node)
        return node

    def setting(self, name: str) -> ast.Assign:
        value = ast.Subscript(ast.Name(OVERRIDES, ast.Load()), ast.Constant(name), ast.Load())
        return ast.Assign([ast.Name(name, ast.Store())], value)
