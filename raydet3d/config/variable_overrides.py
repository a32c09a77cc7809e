"""Variable overrides: an override without a dot (`--cfg-options lr=0.002`) replaces a variable in every config file.

The values of plain module-level assignments `NAME = ...` are replaced before a file is run, so that everything that is
computed from the variable follows. Overrides with dots, and dicts, are merged into the result instead (`cfg_options`).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from raydet3d.config.cfg_options import split_key
from raydet3d.config.config_dict import ConfigValue

OVERRIDES = "__overrides__"
"""Name of the dict of overrides in a config that is run."""


def select_variable_overrides(options: Mapping[str, ConfigValue]) -> dict[str, Any]:
    """Return the overrides that replace variables: those without a dot whose value is no dict."""
    return {key: value for key, value in options.items() if len(split_key(key)) == 1 and not isinstance(value, Mapping)}


class OverrideVariables(ast.NodeTransformer):
    """Replaces the values that a Python config assigns to overridden names at module level.

    Args:
        overrides: The overrides; the tree looks them up by `OVERRIDES`.

    Attributes:
        overridden: The overridden names that the config assigns to.
    """

    def __init__(self, overrides: Mapping[str, ConfigValue]) -> None:
        self.overrides = overrides
        self.overridden: set[str] = set()

    def visit_FunctionDef(self, node: ast.AST) -> ast.AST:
        """Leave functions and classes as they are: their names are local."""
        return node

    visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.AST]:
        """Replace the value of `a = b = ...`; `a, b = ...` is run, and then each overridden name is set."""
        others = [target for target in node.targets if self._name(target) is None]
        inner = {
            part.id
            for target in others
            if isinstance(target, ast.Tuple | ast.List)
            for part in ast.walk(target)
            if isinstance(part, ast.Name) and part.id in self.overrides
        }
        names = [name for name in map(self._name, node.targets) if name is not None]
        kept = [ast.copy_location(ast.Assign(others, node.value), node)] if others else []
        return [*kept, *(self._setting(name, node) for name in (*names, *sorted(inner)))]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Replace the value of `a: int = ...`."""
        name = self._name(node.target)
        return node if name is None or node.value is None else self._setting(name, node)

    def _name(self, target: ast.expr) -> str | None:
        """Return the name of a target that is an overridden variable."""
        return target.id if isinstance(target, ast.Name) and target.id in self.overrides else None

    def _setting(self, name: str, node: ast.stmt) -> ast.Assign:
        self.overridden.add(name)
        value = ast.Subscript(ast.Name(OVERRIDES, ast.Load()), ast.Constant(name), ast.Load())
        return ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), node)
