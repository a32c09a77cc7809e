"""From a config file to its merged values: run or parse the file, load its bases, merge it over them.

A reader per suffix (``READERS``) turns one file into a ``Source``; everything about bases, knobs and merging is the
same for all of them.
"""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import traceback
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raydet3d import compat
from raydet3d.config import lazy
from raydet3d.config.blanks import FILL, Blanks, bare, fill_calls, fill_data, json_marks, python_filler, read_blanks
from raydet3d.config.lines import BASE, Line, line_of, python_lines, yaml_lines
from raydet3d.config.shipped import OURS, installed, shipped
from raydet3d.config.tree import ConfigDict, merge, to_config
from raydet3d.errors import InputError

DEPRECATION = "_deprecation_"
KNOBS = "__knobs__"


class MissingConfig(InputError, FileNotFoundError):
    """A config file that does not exist."""


@dataclass
class Source:
    """One file as read.

    Attributes:
        path: The file.
        text: What stands in it.
        values: Its own top-level keys, not yet merged over its bases.
        lines: The line at which each top-level key is set first.
        used: The top-level names that the file itself reads, its own and those of its bases.
        places: The line of each key, at any depth.
        env: The environment variables that it took values from.
        space: All its names with what they stand for, imported ones too: what a pure-python config may take from it.
        imported: The names that it imports, which are no values.
    """

    path: Path
    text: str
    values: dict[str, Any]
    lines: dict[str, int]
    used: set[str] = field(default_factory=set)
    places: dict[str, Line] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)


@dataclass
class Chain:
    """A config file with all that it inherits from.

    Attributes:
        values: The merged config.
        sources: The files, bases first.
        turned: The knobs that some file has.
        kind: ``pure`` (python with ``read_base`` or imports), ``text`` (with ``_base_``), or ``plain`` (neither).
    """

    values: ConfigDict
    sources: list[Source]
    turned: set[str]
    kind: str = "plain"


Run = Callable[[ConfigDict], Source]


@dataclass
class Draft:
    """A file that has been parsed and not yet run: its bases are known (``line`` is theirs), its values are not.

    ``pure`` holds the bases of a pure-python config; of all others it is None.
    """

    bases: list[str]
    knobs: set[str]
    run: Run
    line: int | None = None
    pure: list[lazy.Base] | None = None

    def place(self, path: Path) -> str:
        """``file:line`` of what the file says of its bases."""
        return f"{path}:{self.line}" if self.line else str(path)


def read_chain(path: Path, knobs: Mapping[str, Any] | None = None, *, via: tuple[tuple[Path, str], ...] = ()) -> Chain:
    """Read a config file and, before it, everything that it inherits from.

    Args:
        path: A ``.py``, ``.yaml``, ``.yml`` or ``.json`` file.
        knobs: Values that replace those of plain module-level ``NAME = ...`` in every file of the chain.
        via: The files whose ``_base_`` led here, each with the place where it says so.

    Raises:
        InputError: Something in a file cannot be read, run or merged; the message names file, line and key.
    """
    path = Path(os.path.abspath(path))
    ring = [file.resolve() for file, _ in via]
    if path.resolve() in ring:
        names = " -> ".join(str(file) for file in (*ring[ring.index(path.resolve()) :], path))
        raise InputError(f"{via[-1][1]}: {BASE} goes round in a circle: {names}")
    if not path.is_file():
        asked = f"{via[-1][1]}: {BASE} names a file that does not exist: {path}" if via else f"no such config: {path}"
        raise MissingConfig(asked)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise InputError(
            f"{path}: a config is a .py, .yaml, .yml or .json file, not {path.suffix or 'without suffix'!r}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    draft = reader(path, text, knobs or {})
    here = draft.place(path)
    if draft.pure is not None:
        return _read_pure(path, draft, draft.pure, knobs, via)

    base: dict[str, Any] = {}
    origin: dict[str, str] = {}
    sources: list[Source] = []
    turned = set(draft.knobs)
    for name in draft.bases:
        chain = read_chain(_base_path(path, name, here), knobs, via=(*via, (path, here)))
        if chain.kind == "pure":
            raise InputError(
                f"{here}: {name} is a pure-python config (it imports what it names), and this file sets {BASE}: "
                "a chain is of one kind; inherit it by 'with read_base():', or write its types as strings"
            )
        for key, value in chain.values.items():
            place = _set_at(chain, key)
            if key in base:
                raise InputError(f"{here}: two of its bases set {key!r}: {origin[key]} and {place}")
            base[key], origin[key] = value, place
        sources += chain.sources
        turned |= chain.turned

    inherited = ConfigDict(base)
    own = draft.run(inherited)
    _deprecated(path, own.values.pop(DEPRECATION, None))
    try:
        merged = merge(inherited, own.values)
    except InputError as error:
        line = line_of(own.places, str(error).partition(":")[0]) or own.lines.get(str(error).split(".")[0])
        raise InputError(f"{path}{f':{line}' if line else ''}: {error}") from None
    return Chain(ConfigDict(merged), [*sources, own], turned, "text" if draft.bases else "plain")


def _read_pure(
    path: Path,
    draft: Draft,
    bases: list[lazy.Base],
    knobs: Mapping[str, Any] | None,
    via: tuple[tuple[Path, str], ...],
) -> Chain:
    """As ``read_chain``, for a pure-python config: it starts with the names of its bases, and nothing is merged."""
    taken: dict[str, Any] = {}
    imported: set[str] = set()
    sources: list[Source] = []
    turned = set(draft.knobs)
    read: dict[Path, Chain] = {}
    for base in bases:
        if base.file not in read:
            chain = read[base.file] = read_chain(base.file, knobs, via=(*via, (path, base.place)))
            if chain.kind == "text":
                raise InputError(
                    f"{base.place}: {base.file.name} sets {BASE}, and this is a pure-python config: "
                    "a chain is of one kind"
                )
            sources += chain.sources
            turned |= chain.turned
            imported |= chain.sources[-1].imported
        taken |= base.take(read[base.file].sources[-1].space)
    own = draft.run(ConfigDict(taken))
    own.imported |= imported
    values = {key: value for key, value in own.space.items() if key not in own.imported and _is_value(value)}
    return Chain(ConfigDict(lazy.settled(values)), [*sources, own], turned, "pure")


def _set_at(chain: Chain, key: str) -> str:
    """``file:line`` at which a chain sets a top-level key last."""
    for source in reversed(chain.sources):
        if key in source.lines:
            return f"{source.path}:{source.lines[key]}"
    return str(chain.sources[-1].path)


def _deprecated(path: Path, notice: Any) -> None:
    """Warn of a config that says ``_deprecation_ = dict(expected=..., reference=...)``."""
    if isinstance(notice, Mapping):
        more = f" (see {notice['reference']})" if notice.get("reference") else ""
        instead = f"; use {notice['expected']} instead" if notice.get("expected") else ""
        warnings.warn(f"{path} is deprecated{instead}{more}", DeprecationWarning, stacklevel=2)


def _base_path(path: Path, name: str, here: str) -> Path:
    """The file that an entry of ``_base_`` means; ``mmdet3d::x`` comes with this package, or with an installed one."""
    package, sign, inner = name.partition("::")
    if not sign:
        return path.parent / name
    found = (shipped(inner) if package in OURS else None) or installed(package, inner)
    if found is None:
        why = f"no package {package!r} that brings it is installed"
        why = "no such config comes with it" if package in OURS else why
        raise MissingConfig(f"{here}: {BASE} {name!r}: {why}; give the path of a file")
    return found


def _bases(path: Path, value: Any, line: int | None = None) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        place = f"{path}:{line}" if line else path
        raise InputError(f"{place}: {BASE} must be a path or a list of paths, got {value!r}")
    return list(names)


# ------------------------------------------------------------------------------------------------------- data files


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


def _read_yaml(path: Path, text: str, knobs: Mapping[str, Any]) -> Draft:
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


def _read_json(path: Path, text: str, knobs: Mapping[str, Any]) -> Draft:
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
    return Draft(_bases(path, bases, lines.get(BASE)), turned, run, lines.get(BASE))


# ----------------------------------------------------------------------------------------------------- python files


def _read_python(path: Path, text: str, knobs: Mapping[str, Any]) -> Draft:
    blanks = read_blanks(path, text)
    try:
        tree = ast.parse(blanks.text, str(path))
    except SyntaxError as error:
        number = error.lineno or 1
        line = ([*text.splitlines(), ""][min(number, text.count("\n") + 1) - 1] or error.text or "").strip()
        raise InputError(f"{path}:{number}: {error.msg}: {line}") from error
    places = python_lines(tree)
    bases: list[str] = []
    base_line = None
    body = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(_is_name(target, BASE) for target in node.targets):
            bases = _bases(path, _literal(path, node.value, blanks), node.lineno)
            base_line = node.lineno
        else:
            body.append(node)
    tree.body = body
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and part.id == BASE and not isinstance(part.ctx, ast.Load):
            raise InputError(f"{path}:{part.lineno}: {BASE} is set by itself, at the top level of the file")
    pure = None
    if base_line is None and lazy.is_pure(tree):
        pure = lazy.take_bases(path, tree)
    names = _Names()
    names.visit(tree)
    if pure is not None:
        tree = lazy.Lazy(path).visit(tree)
    guests = lazy.imports_guests(tree)  # what is left of them is carried out
    turner = _Turner(knobs)
    code: Any = fill_calls(turner.visit(tree))

    def run(base: ConfigDict) -> Source:
        space: dict[str, Any] = {
            "__file__": str(path),
            "__name__": f"config:{path.stem}",
            KNOBS: copy.deepcopy(dict(knobs)),
            FILL: python_filler(blanks, base),
            lazy.MAKE_NAME: lazy.Name,
        }
        space.update({BASE: base} if pure is None else base)
        if guests:
            compat.install()
        try:
            exec(compile(code, str(path), "exec"), space)  # a python config is code
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # whatever a config's code raises is the config's mistake
            given = ", ".join(f"{key}={knobs[key]!r}" for key in sorted(turner.turned))
            raise InputError(_failure(path, error) + (f" (with the override {given})" if given else "")) from error
        there = {key: value for key, value in space.items() if not key.startswith("__") and key != BASE}
        values = {
            key: to_config(value)
            for key, value in there.items()
            if key not in names.imported and _is_value(value) and (pure is None or key in names.lines)
        }
        env = blanks.found | {name: os.environ[name] for name in names.env if os.environ.get(name)}
        found = Source(path, text, values, names.lines, names.used | blanks.asked, places, env)
        if base_line is None:
            found.space, found.imported = {key: lazy.fresh(value) for key, value in there.items()}, names.imported
        return found

    return Draft(bases, turner.turned, run, base_line, pure)


def _literal(path: Path, node: ast.expr, blanks: Blanks) -> Any:
    """The value of ``_base_ = ...``, which may use no names."""
    code: Any = fill_calls(ast.Expression(node))
    try:
        return eval(compile(code, str(path), "eval"), {"__builtins__": {}, FILL: python_filler(blanks, {})})
    except InputError:
        raise
    except Exception as error:  # any failure means that it is no literal
        raise InputError(f"{path}:{node.lineno}: {BASE} must be a literal path or list of paths ({error})") from error


def _failure(path: Path, error: BaseException) -> str:
    """``file:line: what went wrong`` for an error in a config's own code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f":{frames[-1].lineno}" if frames else ""
    source = f" in `{frames[-1].line}`" if frames and frames[-1].line else ""
    what = str(error) if isinstance(error, AttributeError) else f"{type(error).__name__}: {error}"
    return f"{path}{line}: {what}{source}"


def _is_value(value: Any) -> bool:
    """Whether a module-level name is part of the config; modules, functions and classes are its tools."""
    return not isinstance(
        value, types.ModuleType | types.FunctionType | types.BuiltinFunctionType | types.MethodType | type
    )


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


class _Names(ast.NodeVisitor):
    """Where a config sets its module-level names, and which ones it reads, imports, and asks the environment for."""

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


class _Turner(ast.NodeTransformer):
    """Puts the knobs' values in place of what a config assigns to these names at its module level."""

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        self.knobs = knobs
        self.turned: set[str] = set()

    def visit_FunctionDef(self, node: ast.AST) -> ast.AST:
        return node  # names in there are its own

    visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.AST]:
        names = [target.id for target in node.targets if isinstance(target, ast.Name) and target.id in self.knobs]
        inner = {
            part.id
            for target in node.targets
            if isinstance(target, ast.Tuple | ast.List)
            for part in ast.walk(target)
            if isinstance(part, ast.Name) and part.id in self.knobs
        }
        self.turned |= {*names, *inner}
        others = [target for target in node.targets if not (isinstance(target, ast.Name) and target.id in names)]
        new: list[ast.AST] = []
        if others:
            new.append(ast.copy_location(ast.Assign(others, node.value), node))
        new += [ast.copy_location(self.setting(name), node) for name in (*names, *sorted(inner))]
        return new

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if isinstance(node.target, ast.Name) and node.target.id in self.knobs and node.value is not None:
            self.turned.add(node.target.id)
            return ast.copy_location(self.setting(node.target.id), node)
        return node

    def setting(self, name: str) -> ast.Assign:
        value = ast.Subscript(ast.Name(KNOBS, ast.Load()), ast.Constant(name), ast.Load())
        return ast.Assign([ast.Name(name, ast.Store())], value)


READERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Draft]] = {
    ".py": _read_python,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".json": _read_json,
}
