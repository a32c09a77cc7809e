"""`ConfigDict`, the nested dict of a config, and merging."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from raydet3d.compat import DottedPath
from raydet3d.errors import InputError, nearest

DELETE = "_delete_"


class ConfigDict(dict[str, Any]):
    """A dict whose keys can be read, set and deleted as attributes, at any depth.

    Dicts inside it, also those in lists and tuples, are ConfigDicts too. A missing attribute is an AttributeError, a
    missing item a KeyError; access creates nothing. A `DottedPath` path, read by its key, is what it names.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, to_config(value))

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return value.build() if isinstance(value, DottedPath) else value

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or the default."""
        value = super().get(key, default)
        return value.build() if isinstance(value, DottedPath) else value

    def __missing__(self, key: str) -> Any:
        raise KeyError(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}{nearest(name, self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}{nearest(name, self)}") from None

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, after setting it to `default` if it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, default: Any = None) -> Any:
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

    def merge(self, other: Mapping[str, Any]) -> None:
        """Merge `other` over this dict; `_delete_=True` inside it drops the old values."""
        merged = merge(self, other)
        self.clear()
        for key, value in merged.items():
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


def to_config(value: Any) -> Any:
    """Return `value` with each plain dict in it, also in lists and tuples, as a ConfigDict."""
    if isinstance(value, ConfigDict):
        return value
    if type(value) in (dict, OrderedDict):
        return ConfigDict(value)
    if type(value) in (list, tuple):
        return type(value)(to_config(item) for item in value)
    return value


def to_plain(value: Any) -> Any:
    """Return `value` as plain dicts, lists and tuples; a class or function becomes its import path.

    One that the config's own code defines has no import path, and is kept.
    """
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [to_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if callable(value) and hasattr(value, "__module__") and hasattr(value, "__qualname__"):
        path = f"{value.__module__}.{value.__qualname__}"
        return value if "<" in path or path.startswith("config:") else path
    return value


def merge(base: Mapping[str, Any], child: Mapping[str, Any], *, path: str = "") -> dict[str, Any]:
    """Return a new dict: `child` over `base`.

    Dicts are merged key by key; any other value, lists included, replaces the base's. `_delete_=True` in a dict of the
    child drops the base's dict instead of merging into it, and is itself dropped everywhere.

    Args:
        base: The inherited dict. Neither argument is changed, and the result shares no dict or list with them.
        child: The overriding dict.
        path: Where in the config this happens, for messages.

    Raises:
        InputError: The child has a dict where the base has another value, without `_delete_=True`.
    """
    if child.get(DELETE):
        return {key: _fresh(value) for key, value in child.items() if key != DELETE}
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
            raise InputError(
                f"{where}: a dict cannot be merged into the {type(mine).__name__} that the base has ({mine!r}); "
                f"give it {DELETE}=True to replace it"
            )
    return merged


def _fresh(value: Any) -> Any:
    """Return `value` with new containers, without `_delete_` keys."""
    if isinstance(value, Mapping):
        return {key: _fresh(item) for key, item in value.items() if key != DELETE}
    if type(value) in (list, tuple):
        return type(value)(_fresh(item) for item in value)
    return value
