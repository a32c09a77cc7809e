"""`ConfigDict`, the nested dict of a config, and merging."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from raydet3d.compat import DottedPath
from raydet3d.errors import InputTypeError, nearest

DELETE = "_delete_"

ConfigValue: TypeAlias = (
    "bool | int | float | str | Callable[..., object] | Sequence[ConfigValue] | Mapping[str, ConfigValue] | None"
)
"""A value in a config, at any depth: plain data, and the classes and functions that Python configs may hold."""
PartCfg: TypeAlias = Mapping[str, ConfigValue]
"""The config of a registered part: its `type` and the arguments of its constructor. A `ConfigDict` is one."""
Place: TypeAlias = tuple[str | int, ...]
"""The keys and indices that lead to a value."""


class ConfigDict(dict[str, Any]):
    """A dict whose keys can be read, set and deleted as attributes, at any depth.

    Dicts inside it, also those in lists and tuples, are ConfigDicts too. A missing attribute is an AttributeError, a
    missing item a KeyError; access creates nothing. A `DottedPath` path, read by its key, is what it names.
    """

    def __init__(self, given: Mapping[str, object] | Iterable[tuple[str, object]] = (), /, **kwargs: object) -> None:
        super().__init__()
        self._replace(dict(given, **kwargs))

    def __setitem__(self, key: str, value: object) -> None:
        super().__setitem__(key, to_config(value))

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return value.build() if isinstance(value, DottedPath) else value

    def get(self, key: str, default: object = None) -> Any:
        """Return the value of `key`, or the default."""
        value = super().get(key, default)
        return value.build() if isinstance(value, DottedPath) else value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}{nearest(name, self)}") from None

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}{nearest(name, self)}") from None

    def setdefault(self, key: str, default: object = None) -> Any:
        """Return the value of `key`, after setting it to `default` if it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, default: object = None) -> Any:
        """Remove `key` and return its value; as in MMEngine, the default (None) if it is missing."""
        return super().pop(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set keys; a dict over a dict is updated recursively, as configs that call `model.update(...)` expect.

        `_delete_=True` in a dict drops the old values, at the top and inside, as in `merge`.
        """
        given = dict(*args, **kwargs)
        if given.pop(DELETE, False) is True:
            self.clear()
        for key, value in given.items():
            mine = super().get(key)
            if isinstance(mine, ConfigDict) and isinstance(value, Mapping):
                mine.update(value)
            else:
                self[key] = value

    def merge(self, other: Mapping[str, ConfigValue]) -> None:
        """Merge `other` over this dict; `_delete_=True` inside it drops the old values."""
        self._replace(merge(self, other))

    def _replace(self, values: Mapping[str, object]) -> None:
        self.clear()
        for key, value in values.items():
            self[key] = value

    def copy(self) -> ConfigDict:
        """Return a shallow copy."""
        return ConfigDict(self)

    def __copy__(self) -> ConfigDict:
        return self.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and tuples that share nothing with this dict."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def to_config(value: object) -> Any:
    """Return `value` with each plain dict in it, also in lists and tuples, as a ConfigDict."""
    if isinstance(value, ConfigDict):
        return value
    if type(value) is dict or type(value) is OrderedDict:
        return ConfigDict(value)
    return map_items(value, to_config)


def map_items(value: object, change: Callable[[object], object]) -> Any:
    """Return a list or tuple with each item changed; any other value, such as a named tuple, as it is."""
    if type(value) is list:
        return [change(item) for item in value]
    return tuple(change(item) for item in value) if type(value) is tuple else value


def map_leaves(value: object, change: Callable[[object, Place], object], place: Place = ()) -> Any:
    """Return a copy of nested dicts, lists and tuples with every other value replaced.

    Args:
        value: Any value.
        change: From a value that is no dict, list or tuple, and its place, to the new value.
        place: The place of `value`.
    """
    if isinstance(value, Mapping):
        return {key: map_leaves(item, change, (*place, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_leaves(item, change, (*place, number)) for number, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return change(value, place)


def walk(value: object, place: Place = ()) -> Iterator[tuple[Place, object]]:
    """Yield each value at any depth with its place, dicts and lists before what they hold."""
    yield place, value
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, (*place, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from walk(item, (*place, number))


def to_plain(value: object) -> Any:
    """Return `value` as plain dicts, lists and tuples; a class or function becomes its import path.

    One that the config's own code defines has no import path, and is kept.
    """
    return map_leaves(value, lambda leaf, _: import_path(leaf))


def import_path(value: object) -> object:
    """Return the import path of a class or function that has one; any other value as it is."""
    if callable(value) and hasattr(value, "__module__") and hasattr(value, "__qualname__"):
        path = f"{value.__module__}.{value.__qualname__}"
        return value if "<" in path or path.startswith("config:") else path
    return value


def with_lists(value: object) -> Any:
    """Return `value` with lists in place of tuples, to compare it with what was read from JSON."""
    if isinstance(value, Mapping):
        return {key: with_lists(item) for key, item in value.items()}
    return [with_lists(item) for item in value] if isinstance(value, list | tuple) else value


def merge(base: Mapping[str, ConfigValue], child: Mapping[str, ConfigValue], *, path: str = "") -> dict[str, Any]:
    """Return a new dict: `child` over `base`.

    Dicts are merged key by key; any other value, lists included, replaces the base's. `_delete_=True` in a dict of the
    child drops the base's dict instead of merging into it, and is itself dropped everywhere.

    Args:
        base: The inherited dict. Neither argument is changed, and the result shares no dict or list with them.
        child: The overriding dict.
        path: Where in the config this happens, for messages.

    Raises:
        InputTypeError: The child has a dict where the base has another value, without `_delete_=True`.
    """
    if child.get(DELETE):
        fresh: dict[str, Any] = _fresh(child)
        return fresh
    base = dict(base)  # whose values are looked at as they are
    merged = {key: _fresh(value) for key, value in base.items()}
    for key, value in child.items():
        if key == DELETE:
            continue
        where = f"{path}.{key}" if path else str(key)
        mine = base.get(key)
        if not isinstance(value, Mapping) or mine is None or value.get(DELETE):
            merged[key] = _fresh(value)
        elif isinstance(mine, Mapping):
            merged[key] = merge(mine, value, path=where)
        else:
            raise InputTypeError(
                f"{where}: a dict cannot be merged into the {type(mine).__name__} that the base has ({mine!r}); "
                f"give it {DELETE}=True to replace it"
            )
    return merged


def _fresh(value: object) -> Any:
    """Return `value` with new containers, without `_delete_` keys."""
    if isinstance(value, Mapping):
        return {key: _fresh(item) for key, item in value.items() if key != DELETE}
    return map_items(value, _fresh)
