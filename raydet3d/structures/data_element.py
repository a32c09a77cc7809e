"""`DataElement`: named data fields and meta information, read as attributes or as items."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self

import numpy as np
from torch import Tensor


class DataElement:
    """Named data fields and meta information; base class of `InstanceData` and `Det3DDataSample`.

    `element.name = value` and `element["name"] = value` set a data field; reading looks up data fields, then meta
    keys. A name is one or the other, never both.

    Args:
        metainfo: Information about the data (ids, paths, sizes, calibration); never moved between devices.
        **fields: Initial data fields.
    """

    _data: dict[str, Any]
    _meta: dict[str, Any]

    def __init__(self, *, metainfo: Mapping[str, Any] | None = None, **fields: Any) -> None:
        object.__setattr__(self, "_data", {})
        object.__setattr__(self, "_meta", dict(metainfo or {}))
        for name, value in fields.items():
            setattr(self, name, value)

    # ------------------------------------------------------------------ fields

    def _check(self, name: str, value: Any) -> Any:
        """Check or convert a value before it becomes a data field; subclasses override this."""
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__}: a field's name may not begin with '_', got {name!r}")
        if name in self._meta:
            raise AttributeError(f"{type(self).__name__}: {name!r} is meta information; use set_metainfo to change it")
        if isinstance(getattr(type(self), name, None), property):  # of a subclass
            object.__setattr__(self, name, value)
            return
        if hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__}: {name!r} is an attribute of the class and cannot be a field")
        self._data[name] = self._check(name, value)

    def __getattr__(self, name: str) -> Any:
        # Called when ordinary lookup fails. Private names raise at once: unpickling would look for `_data` forever.
        if not name.startswith("_"):
            if name in self._data:
                return self._data[name]
            if name in self._meta:
                return self._meta[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}{self._field_hint(name)}")

    def _field_hint(self, name: str) -> str:
        if name.startswith("_"):
            return ""
        names = sorted([*self._data, *self._meta])
        return f"; it has {', '.join(names)}" if names else "; it is empty"

    def __delattr__(self, name: str) -> None:
        if name in self._data:
            del self._data[name]
        elif name in self._meta:
            del self._meta[name]
        else:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __contains__(self, name: str) -> bool:
        return name in self._data or name in self._meta

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field or meta value, or the default."""
        return self._data.get(name, self._meta.get(name, default))

    def pop(self, name: str, *default: Any) -> Any:
        """Remove and return a field or meta value; a second argument is the default."""
        if name in self._data:
            return self._data.pop(name)
        return self._meta.pop(name, *default)

    def keys(self) -> KeysView[str]:
        """Return the names of the data fields, in the order in which they were set."""
        return self._data.keys()

    def values(self) -> ValuesView[Any]:
        """Return the values of the data fields."""
        return self._data.values()

    def items(self) -> ItemsView[str, Any]:
        """Return names and values of the data fields."""
        return self._data.items()

    def all_items(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values of the meta information, then of the data fields."""
        yield from self._meta.items()
        yield from self._data.items()

    def update(self, other: DataElement) -> None:
        """Set the data fields and meta information of another element."""
        self.set_metainfo(other.metainfo)
        for name, value in other.items():
            setattr(self, name, value)

    # ------------------------------------------------------------------ meta information

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the meta information."""
        return dict(self._meta)

    def metainfo_keys(self) -> list[str]:
        """Return the names of the meta information."""
        return list(self._meta)

    def metainfo_items(self) -> ItemsView[str, Any]:
        """Return names and values of the meta information."""
        return self._meta.items()

    def set_metainfo(self, metainfo: Mapping[str, Any]) -> None:
        """Add or change meta information."""
        for name, value in metainfo.items():
            if name in self._data:
                raise AttributeError(f"{type(self).__name__}: {name!r} is a data field already")
            self._meta[name] = value

    # ------------------------------------------------------------------ copies

    def new(self, *, metainfo: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None) -> Self:
        """Create an element of the same class, by default with this one's meta information and data."""
        other = type(self)(metainfo=self._meta if metainfo is None else metainfo)
        for name, value in (self._data if data is None else data).items():
            setattr(other, name, value)
        return other

    def _map(self, change: Callable[[Any], Any]) -> Self:
        return self.new(data={name: change(value) for name, value in self._data.items()})

    def clone(self) -> Self:
        """Copy the data fields (tensors, arrays, boxes, nested elements); the meta information is shared."""
        return self._map(_clone)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every field that has a `to` method; arguments as for `torch.Tensor.to`."""
        return self._map(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def cpu(self) -> Self:
        """Copy every field that has a `cpu` method to host memory."""
        return self._map(lambda value: value.cpu() if hasattr(value, "cpu") else value)

    def cuda(self) -> Self:
        """Copy the fields to the current GPU."""
        return self.to("cuda")

    def pin_memory(self) -> Self:
        """Copy every field that has a `pin_memory` method to pinned memory; loaders with `pin_memory=True` call it."""
        return self._map(lambda value: value.pin_memory() if hasattr(value, "pin_memory") else value)

    def detach(self) -> Self:
        """Detach the fields from the autograd graph."""
        return self._map(lambda value: value.detach() if hasattr(value, "detach") else value)

    def numpy(self) -> Self:
        """Convert tensors to numpy arrays; other fields are kept."""
        return self._map(_numpy)

    def to_dict(self) -> dict[str, Any]:
        """Return meta information and data in one dict; nested elements become dicts as well."""
        return {name: value.to_dict() if isinstance(value, DataElement) else value for name, value in self.all_items()}

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for title, fields in (("meta", self._meta), ("data", self._data)):
            lines += [f"  {title} {name}: {_brief(value)}" for name, value in fields.items()]
        return "\n".join([*lines, ")"])


def _clone(value: Any) -> Any:
    if hasattr(value, "clone"):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray | list | dict) else value


def _numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return value.numpy() if isinstance(value, DataElement) else value


def _brief(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}"
    text = repr(value).replace("\n", "\n  ")
    return text if len(text) < 2000 else text[:2000] + "..."
