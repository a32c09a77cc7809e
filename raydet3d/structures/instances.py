"""`InstanceData`: fields of equal length (boxes, scores, labels) that are indexed together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet3d.structures.data_element import DataElement

Index = int | slice | list[int] | list[bool] | Tensor | NDArray[Any]


class InstanceData(DataElement):
    """The objects of one frame: every field has one entry per object.

    Fields may be tensors, numpy arrays, lists, boxes, or anything else with a length that can be indexed.

    Args:
        metainfo: Information about all of them.
        **fields: Data fields of equal length.

    Example:
        >>> found = InstanceData(scores=torch.tensor([0.9, 0.2, 0.7]), names=["Car", "Van", "Car"])
        >>> found[found.scores > 0.5].names
        ['Car', 'Car']
    """

    def _check(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
            raise ValueError(f"InstanceData: {name!r} has one entry per instance, got a single number")
        if not isinstance(value, Sized) or isinstance(value, str):
            raise TypeError(f"InstanceData: {name!r} has one entry per instance, got a {type(value).__name__}")
        others = [field for field in self._data if field != name]
        if others and len(value) != len(self):
            raise ValueError(
                f"InstanceData: {name!r} has {len(value)} entries, but {others[0]!r} has {len(self)}; "
                "all fields have one entry per instance"
            )
        return value

    def __len__(self) -> int:
        return len(next(iter(self._data.values()))) if self._data else 0

    def __getitem__(self, index: Index | str) -> Any:
        """Return a field by its name, or the selected instances as new `InstanceData`."""
        if isinstance(index, str):
            return getattr(self, index)
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"InstanceData: index {int(index)} is out of range for {len(self)} instances")
            start = int(index) % len(self)
            index = slice(start, start + 1)
        elif isinstance(index, list):
            index = torch.tensor(index, dtype=torch.bool if index and isinstance(index[0], bool) else torch.long)
        elif isinstance(index, np.ndarray):
            index = torch.from_numpy(np.ascontiguousarray(index))
        if isinstance(index, Tensor):
            if index.dtype == torch.bool and len(index) != len(self):
                raise IndexError(f"InstanceData: a mask of {len(index)} cannot choose among {len(self)} instances")
            if index.dtype != torch.bool:
                index = index.long()
        return self._map(lambda value: _take(value, index))

    @staticmethod
    def cat(parts: Sequence[InstanceData]) -> InstanceData:
        """Concatenate instances.

        Args:
            parts: At least one; all with the same fields. The meta information of the first is kept.
        """
        if not parts:
            raise ValueError("InstanceData.cat needs at least one part")
        names = list(parts[0].keys())
        for part in parts[1:]:
            if set(part.keys()) != set(names):
                raise ValueError(f"InstanceData.cat: parts have fields {names} and {list(part.keys())}")
        if len(parts) == 1:
            return parts[0]
        return parts[0].new(data={name: _cat([part._data[name] for part in parts]) for name in names})


def _take(value: Any, index: slice | Tensor) -> Any:
    if isinstance(index, slice):
        return value[index]
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, np.ndarray):
        return value[index.cpu().numpy()]
    if isinstance(value, list | tuple):
        if index.dtype == torch.bool:
            chosen = list(itertools.compress(value, index.tolist()))
        else:
            chosen = [value[i] for i in index.tolist()]
        return chosen if isinstance(value, list) else tuple(chosen)
    return value[index]


def _cat(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, list | tuple):
        return type(first)(itertools.chain.from_iterable(values))
    if hasattr(first, "cat"):
        return first.cat(values)
    raise TypeError(f"InstanceData.cat cannot concatenate fields of type {type(first).__name__}")
