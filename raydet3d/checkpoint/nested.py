"""Nested containers of tensors, as states are: apply a function to each leaf, find the tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, TypeVar, cast

from torch import Tensor

from raydet3d.config.config_dict import walk

Key = TypeVar("Key", str, int, str | int)
T = TypeVar("T")
Scalar: TypeAlias = str | bytes | int | float | None
Nested: TypeAlias = "Tensor | Scalar | Mapping[str, Nested] | Mapping[int, Nested] | list[Nested] | tuple[Nested, ...]"
Keys: TypeAlias = tuple[str | int, ...]
"""Keys and indices that lead to a leaf."""


def map_leaves(
    value: Nested,
    function: Callable[[Nested, Keys], Nested],
    *,
    is_leaf: Callable[[Nested], bool] = lambda value: False,
    keys: Keys = (),
) -> Nested:
    """Copy nested containers, with each leaf replaced by what a function makes of it.

    Args:
        value: Dicts, lists and tuples (any mapping becomes a dict, which keeps the versions of a state dict's modules);
            anything else is a leaf.
        function: Takes a leaf and the keys that lead to it.
        is_leaf: Whether a container counts as a leaf.
        keys: Keys that lead to `value`.
    """
    if not isinstance(value, Mapping | list | tuple) or is_leaf(value):
        return function(value, keys)
    if isinstance(value, Mapping):
        inner = {k: map_leaves(item, function, is_leaf=is_leaf, keys=(*keys, k)) for k, item in value.items()}
        versions = getattr(value, "_metadata", None)
        return cast("dict[str, Nested]", inner if versions is None else with_versions(inner, versions))
    items = [map_leaves(item, function, is_leaf=is_leaf, keys=(*keys, i)) for i, item in enumerate(value)]
    return items if isinstance(value, list) else tuple(items)


def with_versions(weights: Mapping[Key, T], versions: Mapping[str, object] | None) -> OrderedDict[Key, T]:
    """Return weights with the versions of the modules that saved them.

    They stand in the attribute `_metadata`, where `state_dict` puts them and `load_state_dict` looks for them.
    """
    out = OrderedDict(weights)
    if versions:
        vars(out)["_metadata"] = versions
    return out


def find_tensors(value: Nested) -> Iterator[Tensor]:
    """Yield every tensor in nested containers."""
    return (item for _, item in walk(value) if isinstance(item, Tensor))


def is_sharded(value: Nested) -> bool:
    """Return whether nested containers have a tensor that is sharded over the ranks."""
    return any(hasattr(tensor, "full_tensor") for tensor in find_tensors(value))  # torch.distributed stays unimported


def num_bytes(value: Nested) -> int:
    """Return the bytes of all tensors in nested containers (of a sharded one, those of this rank)."""
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in find_tensors(value))
    return sum(tensor.numel() * tensor.element_size() for tensor in local)
