"""Tables from names to classes: how `type='...'` in a config becomes an object."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from raydet3d import compat
from raydet3d.config.config_dict import map_items
from raydet3d.config.type_check import check_arguments
from raydet3d.errors import InputAssertionError, InputError, InputKeyError, InputTypeError, nearest_or_all

T = TypeVar("T")
Buildable = Callable[..., Any]

SCOPES = frozenset({"raydet3d", "mmengine", "mmcv", "mmdet", "mmdet3d", "mmseg", "mmpretrain"})
"""First parts of a dotted name that say whose thing it was, not where to import it from."""


class UnknownName(InputError, KeyError):
    """A name that no table entry has. The message lists the nearest names."""


class UnfitType(InputError, TypeError):
    """An import path that names nothing that a table may build."""


class BadArgument(InputError, TypeError):
    """Arguments that a constructor does not take, or lacks."""


class Registry:
    """A table of buildable things (classes or functions) under their names.

    A scope prefix (`mmdet3d.VoxelNet`, `mmengine.CheckpointHook`) is dropped: there is one table of each kind.
    Another name with dots is an import path first, then the entry of its last part.

    A project may have tables of its own below these (`parent=MODELS, scope="mine"`): what the one does not know, the
    other is asked for, in both directions; `mine.Head` asks the project's first.

    Args:
        name: What the table holds, for messages ("hook", "dataset", ...).
        build_func: Builds in place of `build`: called with the config, `registry=` and what `build` was given.
        parent: The table that this one is below of.
        scope: The project's name; that of the calling package, by default.
        locations: Modules whose import fills the table; imported on the first miss.
        home: The same, for the tables of this package: the only place where a foundation names a higher layer.
        optional: Modules of single entries that no other module imports, by the entries' names; each is imported when
            its name is asked for, or all entries are.
        methods: A class named by its import path without being registered must have one of these methods.

    Raises:
        ValueError: The parent has a table of that scope already.
    """

    def __init__(
        self,
        name: str,
        build_func: Buildable | None = None,
        parent: Registry | None = None,
        scope: str | None = None,
        locations: Iterable[str] = (),
        *,
        home: str | None = None,
        optional: Mapping[str, str] | None = None,
        methods: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.optional = dict(optional or {})
        self.methods = tuple(methods)
        self.home = home
        if not isinstance(parent, Registry | None):
            raise InputAssertionError(f"the parent of a registry must be a registry, got {parent!r}")
        if not isinstance(scope, str | None):
            raise InputAssertionError(f"the scope of a registry must be a text, got {scope!r}")
        self._build_func = build_func
        self.parent = parent
        self.scope = scope or str(sys._getframe(1).f_globals.get("__name__", "")).partition(".")[0]
        self.children: dict[str, Registry] = {}
        self._table: dict[str, Buildable] = {}
        self._to_import = [*([home] if home else []), *locations]
        if parent is not None:
            if self.scope in parent.children:
                raise ValueError(f"the {parent.name} table has a table of scope {self.scope!r} already")
            parent.children[self.scope] = self

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def __iter__(self) -> Iterator[str]:
        self.import_from_location()
        return iter(sorted(self._table))

    def __len__(self) -> int:
        self.import_from_location()
        return len(self._table)

    def __repr__(self) -> str:
        names = "".join(f"\n  {name}: {thing}" for name, thing in sorted(self._table.items()))
        return f"Registry of {self.name}, {len(self._table)} names{names}"

    @property
    def module_dict(self) -> dict[str, Buildable]:
        """The entries by name; changes to it change the table."""
        self.import_from_location()
        return self._table

    @property
    def build_func(self) -> Callable[..., Any]:
        """What `build` calls: this table's own function, the parent's, or `build_from_cfg`."""
        if self._build_func is not None:
            return self._build_func
        return build_from_cfg if self.parent is None else self.parent.build_func

    @build_func.setter
    def build_func(self, function: Callable[..., Any]) -> None:
        self._build_func = function

    def describe(self) -> list[tuple[str, str, str]]:
        """Return each entry's name, its module, and the first sentence of its docstring."""
        self.import_from_location()
        rows = []
        for name, thing in sorted(self._table.items()):
            paragraph = inspect.cleandoc(getattr(thing, "__doc__", None) or "").partition("\n\n")[0]
            sentence = re.split(r"(?<=\.)\s", " ".join(paragraph.split()))[0]
            rows.append((name, str(getattr(thing, "__module__", "")), sentence))
        return rows

    @overload
    def register_module(
        self, name: str | list[str] | None = None, force: bool = False, module: None = None
    ) -> Callable[[T], T]: ...
    @overload
    def register_module(self, name: str | list[str] | None = None, force: bool = False, *, module: T) -> T: ...
    def register_module(
        self, name: str | list[str] | None = None, force: bool = False, module: T | None = None
    ) -> T | Callable[[T], T]:
        """Enter a class or function, as a decorator (`@HOOKS.register_module()`) or by `module=`.

        Args:
            name: Name or names to enter it under; its own `__name__` by default.
            force: Replace an entry that exists.
            module: The thing to enter, when not used as a decorator.

        Raises:
            TypeError: `force` is not a bool, `name` no text (the parentheses are missing), or the thing is not
                callable.
            KeyError: The name is taken by something else and `force` is false.
        """
        if not isinstance(force, bool):
            raise TypeError(f"force must be a bool, got {type(force).__name__}")
        if name is not None and not isinstance(name, str | list | tuple):
            raise TypeError(f"a name is a text or a list of them, got {name!r}; write @TABLE.register_module()")

        def enter(thing: T) -> T:
            if not callable(thing):
                raise TypeError(f"a {self.name} must be a class or a function, got {thing!r}")
            names = [name] if isinstance(name, str) else list(name or [getattr(thing, "__name__", repr(thing))])
            for key in names:
                there = self._table.get(key)
                if there is not None and there is not thing and not force:
                    raise KeyError(f"{key} is already a {self.name}: {there!r}; pass force=True to replace it")
            self._table.update(dict.fromkeys(names, thing))
            return thing

        return enter if module is None else enter(module)

    def get(self, key: str) -> Buildable:
        """Return the entry of a name.

        Raises:
            UnknownName: There is none; the message names the nearest ones.
        """
        if not isinstance(key, str):
            raise InputTypeError(f"the name of a {self.name} must be a text, got {key!r}")
        found = self._find(key)
        if found is None:
            raise UnknownName(f"unknown {self.name} type {key!r}; {self._hint(key.rpartition('.')[2])}")
        return found

    def _hint(self, name: str) -> str:
        """Return the error sentence for a name that is not registered."""
        others = [table.name for table in tables().values() if table is not self and name in table._names()]
        if others:
            return f"the {' and the '.join(others)} table has it"
        known = {name for table in self._family() for name in table._names()}
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        if near:
            return f"did you mean {' or '.join(map(repr, near))}?"
        return f"known: {', '.join(sorted(known))}" if known else "the table is empty"

    def build(self, cfg: object, default_args: Mapping[str, object] | None = None, **kwargs: object) -> Any:
        """Make an object from `dict(type=..., **arguments)`: by `build_from_cfg`, or by the table's `build_func`.

        Args:
            cfg: `type` is a name, an import path, a class or a function; the rest are its arguments.
            default_args: Arguments to use where `cfg` gives none.
            kwargs: For the table's `build_func`.

        Raises:
            BadArgument: `cfg` is no mapping, has no `type`, lacks an argument, or has one that is unknown (the
                message names the nearest).
            UnknownName: No such entry.
        """
        self._import_home()  # the package that fills the table may set how to build from it
        given = {} if default_args is None else {"default_args": default_args}
        return self.build_func(cfg, registry=self, **given, **kwargs)

    @contextmanager
    def temporary(self, **entries: Buildable) -> Iterator[Registry]:
        """Entries that last as long as the `with` block; for tests."""
        self.import_from_location()
        before = dict(self._table)
        self._table.update(entries)
        try:
            yield self
        finally:
            self._table = before

    def import_from_location(self) -> None:
        """Fill the table now, instead of on its first miss; optional entries too."""
        self._import_home()
        for module in self.optional.values():
            importlib.import_module(module)

    def _names(self) -> set[str]:
        """Return the names of the entries, those of optional modules that are not imported yet among them."""
        return {*self._table, *self.optional}

    def _import_home(self) -> None:
        while self._to_import:
            home = self._to_import.pop(0)  # first, since what is imported asks this table again
            try:
                importlib.import_module(home)
            except BaseException:
                self._to_import.insert(0, home)
                raise

    def _family(self) -> Iterator[Registry]:
        """This table, those above it, then those below."""
        table: Registry | None = self
        while table is not None:
            yield table
            table = table.parent
        yield from self._below()

    def _below(self) -> Iterator[Registry]:
        for child in self.children.values():
            yield child
            yield from child._below()

    def _tree(self) -> Iterator[Registry]:
        """This table's family, then the tables below any of it."""
        family = list(self._family())
        yield from family
        root = next(table for table in family if table.parent is None)
        yield from (table for table in root._below() if table not in family)

    def _find(self, key: str) -> Buildable | None:
        scope, _, short = key.rpartition(".")
        family = list(self._tree() if scope else self._family())
        parts = scope.split(".")
        whose = parts[0]
        if whose:  # the project's own table first
            family.sort(key=lambda table: table.scope not in parts or whose in SCOPES)
        known = _first_entry(family, short)
        if known is None and compat.import_user_packages(table.name for table in family):
            known = _first_entry(family, short)
        if not scope or (known is not None and (whose in SCOPES or whose in self.children)):
            return known
        imported: Buildable | None = compat.find_object(key)
        if imported is None or not callable(imported):
            return known
        if not any(imported is entry for table in family for entry in table._table.values()):
            self._check_importable(key, imported)
        return imported

    def _check_importable(self, key: str, found: Buildable) -> None:
        """Refuse what an import path names unless it is a class for this table: building calls it with arguments.

        Raises:
            UnfitType: It is a function, part of Python itself, or a class without the methods that it needs.
        """
        methods = next((table.methods for table in self._family() if table.methods), ())
        parts = {name for kind in getattr(found, "__mro__", ()) for name in vars(kind)}
        module = str(getattr(found, "__module__", None) or "")
        is_class = isinstance(found, type)
        is_standard = module.partition(".")[0] in sys.stdlib_module_names
        if is_standard and (not is_class or any(table.home for table in self._family())):
            why = "is part of Python's standard library"
        elif self is not FUNCTIONS and not is_class:
            why = "is a function that is not registered"
        elif methods and not parts.intersection(methods):
            why = f"is a class without {' or '.join(methods)}"
        else:
            return
        raise UnfitType(f"{self.name} type {key!r} {why}; name a registered {self.name} or the import path of a class")


def _first_entry(family: Iterable[Registry], name: str) -> Buildable | None:
    """Return the entry of the first table that has a name; each is filled on a miss."""
    for table in family:
        if name not in table._table:
            table._import_home()
        if name not in table._table and name in table.optional:
            importlib.import_module(table.optional[name])
        if name in table._table:
            return table._table[name]
    return None


def build_from_cfg(cfg: object, registry: Registry, default_args: Mapping[str, object] | None = None) -> Any:
    """Make an object from `dict(type=..., **arguments)`; see `Registry.build`."""
    if not isinstance(registry, Registry):
        raise InputTypeError(f"registry must be a Registry, got {registry!r}")
    if not isinstance(cfg, Mapping):
        raise BadArgument(f"a {registry.name} is built from a dict with a 'type', got {cfg!r}")
    args = {**(default_args or {}), **cfg}
    args.pop("_scope_", None)
    if "type" not in args:
        raise InputKeyError(f'a {registry.name} config must contain the key "type"; got keys {sorted(map(str, args))}')
    kind = args.pop("type")
    thing = registry.get(kind) if isinstance(kind, str) else kind
    if not callable(thing):
        raise BadArgument(f"a {registry.name}'s type is a name, a class or a function, got {kind!r}")
    args = {key: _fetched(value) for key, value in args.items()}
    check_constructor(registry, thing, args)
    make: Buildable = thing
    if isinstance(thing, type) and issubclass(thing, compat.ManagerMixin):
        make = thing.get_instance
    try:
        return make(**args)
    except TypeError as error:
        refusal = _unexpected_argument(registry, thing, args, error)
        if refusal is None:
            raise
        raise refusal from None


def check_constructor(registry: Registry, thing: Buildable, args: Mapping[str, object]) -> None:
    """Refuse an argument that the constructor does not take, with the nearest one that it does."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return
    inner = getattr(thing, "func", thing)  # of a partial
    title = f"{registry.name} {getattr(thing, '__name__', None) or getattr(inner, '__name__', inner)}"
    parameters = signature.parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in args:
            if key not in parameters:
                raise BadArgument(f"{title} has no argument {key!r}{nearest_or_all(key, parameters)}")
    try:
        signature.bind(**args)
        check_arguments(thing, args, title)
    except (TypeError, InputError) as error:
        raise BadArgument(str(error) if isinstance(error, InputError) else f"{title}: {error}") from None


def _unexpected_argument(
    registry: Registry, thing: Buildable, args: Mapping[str, object], error: TypeError
) -> BadArgument | None:
    """Return the error of an argument that `**kwargs` passed on to a base class that does not take it, or None."""
    found = re.fullmatch(r"(?:.*\.)?(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'.*", str(error))
    bases = {kind.__name__: kind for kind in getattr(thing, "__mro__", ())[:-1]}
    if found is None or found[1] not in bases or found[2] not in args:
        return None
    known = {
        name
        for kind in bases.values()
        if "__init__" in vars(kind)
        for name, parameter in inspect.signature(vars(kind)["__init__"]).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    } - {"self"}
    title = f"{registry.name} {getattr(thing, '__name__', thing)}"
    return BadArgument(f"{title} has no argument {found[2]!r}{nearest_or_all(found[2], sorted(known))}")


def tables() -> dict[str, Registry]:
    """Return the tables of this package by their import names."""
    return {name: value for name, value in globals().items() if isinstance(value, Registry)}


def _fetched(value: object) -> object:
    """Replace each `DottedPath` in a value, also in lists, by what it names; dicts do so themselves when read."""
    if isinstance(value, compat.DottedPath):
        return value.build()
    return map_items(value, _fetched)


RUNNERS = Registry("runner", home="raydet3d.runtime", methods=["train"])
RUNNER_CONSTRUCTORS = Registry("runner constructor", home="raydet3d.runtime")
LOOPS = Registry("loop", home="raydet3d.runtime", methods=["run"])
STRATEGIES = Registry("strategy", home="raydet3d.runtime")
LOG_PROCESSORS = Registry("log processor", home="raydet3d.runtime", methods=["get_log_after_iter"])
MODEL_WRAPPERS = Registry(
    "model wrapper",
    home="raydet3d.runtime",
    optional={"MMFullyShardedDataParallel": "raydet3d.runtime.fsdp"},
    methods=["forward"],
)
EVALUATOR = Registry("evaluator", home="raydet3d.runtime", methods=["evaluate"])
INFERENCERS = Registry("inferencer", home="raydet3d.runtime")
HOOKS = Registry("hook", home="raydet3d.hooks", methods=["after_train_iter"])
DATASETS = Registry(
    "dataset",
    home="raydet3d.data",
    optional={
        "TownDataset": "raydet3d.data.synthetic.town_dataset",
        "NuScenesTownDataset": "raydet3d.data.synthetic.nuscenes_town_dataset",
    },
    methods=["__getitem__"],
)
DATA_SAMPLERS = Registry("sampler", home="raydet3d.data", methods=["__iter__"])
TRANSFORMS = Registry("transform", home="raydet3d.data", methods=["transform", "__call__"])
FUNCTIONS = Registry("function", home="raydet3d.data")
MODELS = Registry("model", home="raydet3d.models", methods=["forward"])
WEIGHT_INITIALIZERS = Registry("weight initializer", home="raydet3d.models", methods=["__call__"])
TASK_UTILS = Registry("task part", home="raydet3d.models")
OPTIMIZERS = Registry(
    "optimizer",
    home="raydet3d.optim",
    optional={"MuonAdamW": "raydet3d.optim.muon", "ZeroRedundancyOptimizer": "raydet3d.optim.zero"},
    methods=["step"],
)
OPTIM_WRAPPERS = Registry("optim wrapper", home="raydet3d.optim", methods=["update_params"])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optim wrapper constructor",
    home="raydet3d.optim",
    optional={"LearningRateDecayOptimizerConstructor": "raydet3d.optim.layer_decay"},
    methods=["__call__"],
)
PARAM_SCHEDULERS = Registry("param scheduler", home="raydet3d.optim", methods=["step"])
METRICS = Registry("metric", home="raydet3d.metrics", methods=["process"])
VISUALIZERS = Registry("visualizer", home="raydet3d.visual", methods=["add_datasample"])
VISBACKENDS = Registry(
    "visualizer backend",
    home="raydet3d.visual",
    optional={
        "WandbVisBackend": "raydet3d.visual.wandb_backend",
        "MLflowVisBackend": "raydet3d.visual.mlflow_backend",
    },
    methods=["add_scalar", "add_scalars"],
)
