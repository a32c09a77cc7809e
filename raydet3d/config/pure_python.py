"""Pure-python configs: bases by `with read_base():`, and imported names that are resolved when a part is built.

    from mmengine.config import read_base
    from mmdet3d.models import VoxelNet

    with read_base():
        from .._base_.default_runtime import *

    model = dict(type=VoxelNet)

A file is one of these if it uses `read_base`, or imports anything outside the standard library, and does not set
`_base_`. Its imports are not executed: `VoxelNet` is a `Name` while files are read, and `'mmdet3d.models.VoxelNet'` in
the resulting config.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never, TypeGuard

from raydet3d import compat
from raydet3d.config.config_dict import ConfigDict, ConfigValue, Place, map_items, map_leaves
from raydet3d.errors import InputError, InputRuntimeError, nearest

MAKE_NAME = "__name_of__"
READ_BASE = "read_base"
_CONFIG_MODULES = ("mmengine.config", "raydet3d.config")  # names that configs use themselves


@contextmanager
def read_base() -> Iterator[None]:
    """Mark the imports of bases in a pure-python config; a context manager without effect."""
    yield


@dataclass(frozen=True, repr=False)
class Name:
    """The dotted path of an imported name, while configs are read; its attributes are names as well."""

    _path: str

    def __getattr__(self, name: str) -> Name:
        if name.startswith("__"):
            raise AttributeError(name)
        return Name(f"{self._path}.{name}")

    def __call__(self, *args: object, **kwargs: object) -> Never:
        """Raise a TypeError: the name is not imported yet."""
        raise TypeError(f"{self._path} cannot be called in a config: it is imported when a part is built")

    def __repr__(self) -> str:
        return self._path


@dataclass(frozen=True)
class Base:
    """One `from ... import ...` under `read_base`.

    Attributes:
        file: The base config.
        names: Pairs of a name in the base and its name here; `*` for all names.
        place: `file:line` of the import.
    """

    file: Path
    names: tuple[tuple[str, str], ...]
    place: str

    def take(self, namespace: Mapping[str, ConfigValue]) -> dict[str, Any]:
        """Return the imported names with their values, from the names of the base."""
        taken: dict[str, Any] = {}
        for name, mine in self.names:
            if name == "*":
                taken.update(namespace)
            elif name in namespace:
                taken[mine] = namespace[name]
            else:
                raise InputError(f"{self.place}: {self.file} has no {name!r}{nearest(name, namespace)}")
        return taken


def is_pure(tree: ast.Module) -> bool:
    """Whether a parsed file, which does not set `_base_`, is a pure-python config."""
    for node in ast.walk(tree):
        match node:
            case ast.With() if _is_read_base(node):
                return True
            case ast.ImportFrom() if node.level or not (_is_standard(node.module) or _is_own(node)):
                return True
            case ast.Import(names=names) if not all(_is_standard(alias.name) for alias in names):
                return True
    return False


def imports_aliases(tree: ast.Module) -> bool:
    """Whether a parsed file imports something by the name of an aliased package."""
    names: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names += [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(module)):
                names.append(module)
    return any(name.partition(".")[0] in compat.ROOTS for name in names)


def take_bases(path: Path, tree: ast.Module) -> list[Base]:
    """Remove the `read_base` blocks from a file and return their imports.

    Args:
        path: The file, for messages and relative imports.
        tree: The parsed file; changed.

    Raises:
        InputError: Such a block contains anything but imports of configs.
    """
    bases = []
    for node in [node for node in tree.body if _is_read_base(node)]:
        tree.body.remove(node)
        for line in node.body:
            place = f"{path}:{line.lineno}"
            if not isinstance(line, ast.ImportFrom) or line.module is None:
                raise InputError(
                    f"{place}: only 'from CONFIG import NAMES' may stand under read_base(), not {ast.unparse(line)!r}"
                )
            names = tuple((alias.name, alias.asname or alias.name) for alias in line.names)
            bases.append(Base(_find(path, line.module, line.level, place), names, place))
    return bases


class LazyImports(ast.NodeTransformer):
    """Replace imports of a pure-python config, except those of the standard library, by names.

    Args:
        path: The file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def visit_FunctionDef(self, node: ast.AST) -> ast.AST:
        """Keep the imports inside functions."""
        return node

    visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = visit_FunctionDef

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | list[ast.AST]:
        """Replace `from a.b import c as d` by `d`, the name of `a.b.c`."""
        text = ast.unparse(node)
        if node.level:
            raise InputError(
                f"{self.path}:{node.lineno}: {text!r} is outside of 'with read_base():', and only there a config is "
                "imported"
            )
        if _is_standard(node.module):
            return node
        if _is_own(node):
            node.names = [alias for alias in node.names if alias.name != READ_BASE]
            return node if node.names else ast.copy_location(ast.Pass(), node)
        if any(alias.name == "*" for alias in node.names):
            raise InputRuntimeError(
                f"{self.path}:{node.lineno}: {text!r} is outside of 'with read_base():'; list the imported names"
            )
        return [_set(alias.asname or alias.name, f"{node.module}.{alias.name}", node) for alias in node.names]

    def visit_Import(self, node: ast.Import) -> ast.AST:
        """Replace `import a.b` by `a`, the name of `a`, and `import a.b as c` by `c`, the name of `a.b`."""
        if all(_is_standard(alias.name) for alias in node.names):
            return node
        if len(node.names) > 1:
            raise InputError(
                f"{self.path}:{node.lineno}: {ast.unparse(node)!r} imports several modules; write a line for each"
            )
        alias = node.names[0]
        bound = alias.name.partition(".")[0]
        return _set(alias.asname or bound, alias.name if alias.asname else bound, node)


def to_dotted_paths(values: Mapping[str, ConfigValue]) -> dict[str, Any]:
    """Return the values of a pure-python config with its names as dotted paths.

    Under `type` that is a string for the registries; elsewhere a `DottedPath`, which is imported when it is read.
    """

    def to_dotted_path(value: object, place: Place) -> object:
        if isinstance(value, Name):
            return repr(value) if place[-1] == "type" else compat.DottedPath(repr(value))
        return value

    found: dict[str, Any] = map_leaves(values, to_dotted_path)
    return found


def copy_containers(value: object) -> Any:
    """Return a value with new containers, dicts as ConfigDicts: each importing file gets its own."""
    if isinstance(value, dict):
        return ConfigDict({key: copy_containers(item) for key, item in value.items()})
    return map_items(value, copy_containers)


def _find(path: Path, module: str, level: int, place: str) -> Path:
    """Return the file of a base's module: relative to the config, on the Python path, or in a folder above it."""
    inner = Path(*module.split(".")).with_suffix(".py")
    if level:
        return path.parent.joinpath(*[".."] * (level - 1), inner)
    for folder in (*map(Path, sys.path), *path.parents):
        if (found := folder / inner).is_file():
            return found
    raise InputError(f"{place}: no config {inner.as_posix()} is on the Python path or in a folder above {path.name}")


def _is_read_base(node: ast.AST) -> TypeGuard[ast.With]:
    match node:
        case ast.With(items=[ast.withitem(context_expr=ast.Call(func=func))]):
            return ast.unparse(func).rpartition(".")[2] == READ_BASE
    return False


def _is_standard(module: str | None) -> bool:
    """Whether a module belongs to the standard library."""
    return (module or "").partition(".")[0] in sys.stdlib_module_names


def _is_own(node: ast.ImportFrom) -> bool:
    """Whether an import is of names that configs use themselves: `Config` or `read_base`."""
    module = node.module or ""
    if any(module == known or module.startswith(f"{known}.") for known in _CONFIG_MODULES):
        return True
    return module in ("mmengine", "raydet3d") and {alias.name for alias in node.names} <= {"Config", READ_BASE}


def _set(name: str, path: str, node: ast.stmt) -> ast.Assign:
    call = ast.Call(ast.Name(MAKE_NAME, ast.Load()), [ast.Constant(path)], [])
    return ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], call), node)
