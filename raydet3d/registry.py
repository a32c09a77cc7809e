"""Tables from names to classes: how ``type='...'`` in a config becomes an object."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from raydet3d import compat
from raydet3d.errors import InputError

T = TypeVar("T")
Buildable = Callable[..., Any]

SCOPES = frozenset({"raydet3d", "mmengine", "mmcv", "mmdet", "mmdet3d", "mmseg", "mmpretrain"})
"""First parts of a dotted name that say whose thing it was, not where to import it from."""


class UnknownName(InputError, KeyError):
    """A name that no table entry has. The message lists the nearest names."""


class BadArgument(InputError, TypeError):
    """Arguments that a constructor does not take, or lacks."""


class Registry:
    """A table of buildable things (classes or functions) under their names.

    A scope prefix (``mmdet3d.VoxelNet``, ``mmengine.CheckpointHook``) is dropped: there is one table of each kind.
    Another name with dots is an import path first, then the entry of its last part.

    Args:
        name: What the table holds, for messages ("hook", "dataset", ...).
        home: Package whose import fills the table; imported on the first miss. The only upward pointer of the house.
        locations: Guests' packages in which users put modules of their own; imported on a miss, where there are some.
    """

    def __init__(self, name: str, *, home: str | None = None, locations: Sequence[str] = ()) -> None:
        self.name = name
        self.home = home
        self.locations = tuple(locations)
        self._table: dict[str, Buildable] = {}
        self._awake = home is None

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def __iter__(self) -> Iterator[str]:
        self._wake()
        return iter(sorted(self._table))

    def __len__(self) -> int:
        self._wake()
        return len(self._table)

    def __repr__(self) -> str:
        return f"Registry({self.name!r}, {len(self._table)} names)"

    @overload
    def register_module(
        self, name: str | list[str] | None = None, force: bool = False, module: None = None
    ) -> Callable[[T], T]: ...
    @overload
    def register_module(self, name: str | list[str] | None = None, force: bool = False, *, module: T) -> T: ...
    def register_module(self, name: str | list[str] | None = None, force: bool = False, module: Any = None) -> Any:
        """Enter a class or function, as a decorator (``@HOOKS.register_module()``) or by ``module=``.

        Args:
            name: Name or names to enter it under; its own ``__name__`` by default.
            force: Replace an entry that exists.
            module: The thing to enter, when not used as a decorator.

        Raises:
            TypeError: ``force`` is not a bool, or the thing is not callable.
            KeyError: The name is taken by something else and ``force`` is false.
        """
        if not isinstance(force, bool):
            raise TypeError(f"force must be a bool, got {type(force).__name__}")

        def enter(thing: Any) -> Any:
            if not callable(thing):
                raise TypeError(f"a {self.name} must be a class or a function, got {thing!r}")
            names = [name] if isinstance(name, str) else list(name or [thing.__name__])
            for key in names:
                there = self._table.get(key)
                if there is not None and there is not thing and not force:
                    raise KeyError(f"{key} is already a {self.name}: {there!r}; pass force=True to replace it")
            for key in names:
                self._table[key] = thing
            return thing

        return enter if module is None else enter(module)

    def get(self, key: str) -> Buildable:
        """The entry of a name.

        Raises:
            UnknownName: There is none; the message names the nearest ones.
        """
        found = self._find(key)
        if found is None:
            near = difflib.get_close_matches(key.rsplit(".", 1)[-1], self._table, n=3, cutoff=0.6)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(sorted(self._table))}"
            )
            raise UnknownName(f"unknown {self.name} type {key!r}; {hint}")
        return found

    def build(self, cfg: Mapping[str, Any], default_args: Mapping[str, Any] | None = None) -> Any:
        """Make an object from ``dict(type=..., **arguments)``.

        Args:
            cfg: ``type`` is a name, an import path, a class or a function; the rest are its arguments.
            default_args: Arguments to use where ``cfg`` gives none.

        Raises:
            BadArgument: ``cfg`` is no mapping, has no ``type``, lacks an argument, or has one that is unknown (the
                message names the nearest).
            UnknownName: No such entry.
        """
        if not isinstance(cfg, Mapping):
            raise BadArgument(f"a {self.name} is built from a dict with a 'type', got {cfg!r}")
        args = {**(default_args or {}), **cfg}
        args.pop("_scope_", None)
        if "type" not in args:
            raise BadArgument(f"a {self.name} config needs a 'type'; got keys {sorted(map(str, args))}")
        kind = args.pop("type")
        thing = self.get(kind) if isinstance(kind, str) else kind
        if not callable(thing):
            raise BadArgument(f"a {self.name}'s type is a name, a class or a function, got {kind!r}")
        args = {key: _fetched(value) for key, value in args.items()}
        self._check_arguments(thing, args)
        return thing(**args)

    @contextmanager
    def temporary(self, **entries: Buildable) -> Iterator[Registry]:
        """Entries that last as long as the ``with`` block; for tests."""
        self._wake()
        before = dict(self._table)
        self._table.update(entries)
        try:
            yield self
        finally:
            self._table = before

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True  # first, since what is imported asks this table again
            try:
                importlib.import_module(str(self.home))
            except BaseException:
                self._awake = False
                raise

    def _find(self, key: str) -> Buildable | None:
        scope, _, short = key.rpartition(".")
        if short not in self._table:
            self._wake()
        if short not in self._table and self.locations:
            compat.wake(self.locations)
        known = self._table.get(short)
        if not scope or (known is not None and scope.partition(".")[0] in SCOPES):
            return known
        found = compat.load(key)
        return found if callable(found) else known

    def _check_arguments(self, thing: Buildable, args: Mapping[str, Any]) -> None:
        """Refuse an argument that the constructor does not take, with the nearest one that it does."""
        try:
            signature = inspect.signature(thing)
        except (TypeError, ValueError):
            return
        title = f"{self.name} {getattr(thing, '__name__', thing)}"
        parameters = signature.parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for key in args:
                if key not in parameters:
                    near = difflib.get_close_matches(str(key), parameters, n=1, cutoff=0.6)
                    hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(parameters)}"
                    raise BadArgument(f"{title} has no argument {key!r}; {hint}")
        try:
            signature.bind(**args)
        except TypeError as error:
            raise BadArgument(f"{title}: {error}") from None


def _fetched(value: Any) -> Any:
    """A value with each ``Dotted`` path in it, in lists too, as what it names; dicts do so themselves, when read."""
    if isinstance(value, compat.Dotted):
        return value.build()
    if type(value) in (list, tuple):
        return type(value)(_fetched(item) for item in value)
    return value


def build_from_cfg(cfg: Mapping[str, Any], registry: Registry, default_args: Mapping[str, Any] | None = None) -> Any:
    """``registry.build``, as a function."""
    return registry.build(cfg, default_args)


def build_model_from_cfg(
    cfg: Any, registry: Registry | None = None, default_args: Mapping[str, Any] | None = None
) -> Any:
    """A model from its config; several in a row (``nn.Sequential``) from a list of them."""
    table = MODELS if registry is None else registry
    if isinstance(cfg, list | tuple):
        parts = [table.build(item, default_args) for item in cfg]
        return table.get("Sequential")(*parts)
    return table.build(cfg, default_args)


_ENGINE = ("mmdet3d.engine",)
_ENGINE_OPTIMIZERS = (*_ENGINE, "mmdet3d.engine.optimizers")
HOOKS = Registry("hook", home="raydet3d.hooks", locations=("mmdet3d.engine.hooks",))
LOOPS = Registry("loop", home="raydet3d.runtime", locations=_ENGINE)
LOG_PROCESSORS = Registry("log processor", home="raydet3d.runtime")
MODEL_WRAPPERS = Registry("model wrapper", home="raydet3d.runtime")
DATASETS = Registry("dataset", home="raydet3d.data", locations=("mmdet3d.datasets",))
DATA_SAMPLERS = Registry("sampler", home="raydet3d.data", locations=("mmdet3d.datasets",))
TRANSFORMS = Registry("transform", home="raydet3d.data", locations=("mmdet3d.datasets", "mmdet3d.datasets.transforms"))
FUNCTIONS = Registry("function", home="raydet3d.data")
MODELS = Registry("model", home="raydet3d.models", locations=("mmdet3d.models",))
TASK_UTILS = Registry("task part", home="raydet3d.models", locations=("mmdet3d.models",))
OPTIMIZERS = Registry("optimizer", home="raydet3d.optim", locations=_ENGINE_OPTIMIZERS)
OPTIM_WRAPPERS = Registry("optim wrapper", home="raydet3d.optim", locations=_ENGINE_OPTIMIZERS)
OPTIM_WRAPPER_CONSTRUCTORS = Registry("optim wrapper constructor", home="raydet3d.optim", locations=_ENGINE_OPTIMIZERS)
PARAM_SCHEDULERS = Registry("param scheduler", home="raydet3d.optim", locations=_ENGINE)
METRICS = Registry("metric", home="raydet3d.metrics", locations=("mmdet3d.evaluation",))
EVALUATOR = Registry("evaluator", home="raydet3d.runtime")
VISUALIZERS = Registry("visualizer", home="raydet3d.visual", locations=("mmdet3d.visualization",))
VISBACKENDS = Registry("visualizer backend", home="raydet3d.visual", locations=("mmdet3d.visualization",))
WEIGHT_INITIALIZERS = Registry("weight initializer", home="raydet3d.models")
RUNNERS = Registry("runner", home="raydet3d.runtime")
RUNNER_CONSTRUCTORS = Registry("runner constructor", home="raydet3d.runtime")
STRATEGIES = Registry("strategy", home="raydet3d.runtime")
INFERENCERS = Registry("inferencer", home="raydet3d.runtime")
