"""Functions on sequences and methods that scripts import from `mmengine.utils`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import ModuleType
from typing import Any, TypeVar

from raydet3d.compat.finder import MissingAlias
from raydet3d.compat.plugins import find_object

T = TypeVar("T")
R = TypeVar("R")


def to_ntuple(n: int) -> Callable[[object], tuple[Any, ...]]:
    """Return a function that makes a tuple of what is iterable, and repeats anything else `n` times."""

    def to_tuple(value: object) -> tuple[Any, ...]:
        return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,) * n

    return to_tuple


to_1tuple = to_ntuple(1)
to_2tuple = to_ntuple(2)
to_3tuple = to_ntuple(3)
to_4tuple = to_ntuple(4)


def iter_cast(
    inputs: Iterable[object], dst_type: Callable[..., T], return_type: Callable[[Iterator[T]], R] | None = None
) -> Iterator[T] | R:
    """Convert the items of an iterable.

    Args:
        inputs: The iterable.
        dst_type: Type of the items.
        return_type: Type of the result; an iterator by default.

    Raises:
        TypeError: `inputs` is not iterable, or `dst_type` is no type.
    """
    if not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be iterable, got {inputs!r}")
    if not isinstance(dst_type, type):
        raise TypeError(f"dst_type must be a type, got {dst_type!r}")
    items = map(dst_type, inputs)
    return items if return_type is None else return_type(items)


def list_cast(inputs: Iterable[object], dst_type: Callable[..., T]) -> list[T]:
    """Convert the items of an iterable, and return them as a list."""
    return list(iter_cast(inputs, dst_type, None))


def tuple_cast(inputs: Iterable[object], dst_type: Callable[..., T]) -> tuple[T, ...]:
    """Convert the items of an iterable, and return them as a tuple."""
    return tuple(iter_cast(inputs, dst_type, None))


def slice_list(in_list: Sequence[T], lens: int | list[int]) -> list[Sequence[T]]:
    """Split a list into consecutive parts.

    Args:
        in_list: The list.
        lens: Length of all parts, or of each.

    Raises:
        TypeError: `lens` is neither an integer nor a list.
        ValueError: The lengths do not add up to the list's.
    """
    if isinstance(lens, int):
        lens = [lens] * (len(in_list) // lens)
    if not isinstance(lens, list):
        raise TypeError(f"lens must be an integer or a list of integers, got {lens!r}")
    if sum(lens) != len(in_list):
        raise ValueError(f"lens add up to {sum(lens)}, but the list has {len(in_list)} items")
    ends = [sum(lens[: i + 1]) for i in range(len(lens))]
    return [in_list[end - length : end] for end, length in zip(ends, lens, strict=True)]


def concat_list(in_list: Iterable[Iterable[T]]) -> list[T]:
    """Join lists into one."""
    return list(chain.from_iterable(in_list))


def apply_to(data: object, expr: Callable[[object], bool], apply_func: Callable[[object], object]) -> object:
    """Apply a function to the items of nested containers that satisfy a condition, and return new containers.

    Args:
        data: Nested dicts, lists and tuples.
        expr: The condition.
        apply_func: The function.
    """
    inner = partial(apply_to, expr=expr, apply_func=apply_func)
    if isinstance(data, Mapping):
        made: Any = type(data)()
        for key, value in data.items():
            made[key] = inner(value)
        return made
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        kind: Callable[..., object] = type(data)
        return kind(*map(inner, data))
    if isinstance(data, (list, tuple)):
        return type(data)(map(inner, data))
    return apply_func(data) if expr(data) else data


def has_method(obj: object, method: str) -> bool:
    """Return whether an object has a method."""
    return callable(getattr(obj, method, None))


def is_method_overridden(method: str, base_class: type, derived_class: object) -> bool:
    """Return whether a class, or the class of an object, overrides a method of its base class."""
    if not isinstance(base_class, type):
        raise AssertionError(f"base_class must be a class, got {base_class!r}")
    derived = derived_class if isinstance(derived_class, type) else type(derived_class)
    return bool(getattr(derived, method) != getattr(base_class, method))


def import_modules_from_strings(
    imports: str | list[str] | None, allow_failed_imports: bool = False
) -> ModuleType | list[ModuleType | None] | None:
    """Import modules by name.

    Args:
        imports: A name, or a list of names.
        allow_failed_imports: Return None for a module that cannot be imported, instead of raising an error.

    Returns:
        The module, or a list of modules.

    Raises:
        TypeError: `imports` is neither.
        ImportError: A module cannot be imported.
    """
    if not imports:
        return None
    if isinstance(imports, str):
        return _import_or_none(imports, allow_failed_imports)
    if not isinstance(imports, list) or not all(isinstance(name, str) for name in imports):
        raise TypeError(f"imports must be a text or a list of texts, got {imports!r}")
    return [_import_or_none(name, allow_failed_imports) for name in imports]


def _import_or_none(name: str, may_fail: bool) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        if may_fail:
            return None
        raise


def get_object_from_string(obj_name: str) -> Any:
    """Return the object at a dotted path, or None where there is none."""
    try:
        found = find_object(obj_name)
        return importlib.import_module(obj_name) if found is None else found
    except (ImportError, MissingAlias):
        return None
