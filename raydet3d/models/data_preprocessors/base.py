"""`BaseDataPreprocessor`: moves a collated batch to the model's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.registry import MODELS
from raydet3d.structures import DataElement


@MODELS.register_module()
class BaseDataPreprocessor(nn.Module):
    """Moves what a loader yields to the model's device, and changes nothing else.

    Args:
        non_blocking: Copy asynchronously from pinned memory.
    """

    def __init__(self, non_blocking: bool | None = False) -> None:
        super().__init__()
        self._non_blocking = bool(non_blocking)
        self._device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Device that batches are moved to."""
        return self._device

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `to`, `cuda` and `cpu` all end here: a module without parameters learns its device from an empty tensor.
        super()._apply(fn, recurse)
        self._device = fn(torch.empty(0, device=self._device)).device
        return self

    def cast_data(self, data: Any) -> Any:
        """Move tensors and everything with a `to` method to the device; containers keep their type."""
        if isinstance(data, Mapping):
            return {key: self.cast_data(value) for key, value in data.items()}
        if isinstance(data, tuple) and hasattr(data, "_fields"):
            return type(data)(*(self.cast_data(value) for value in data))
        if isinstance(data, list | tuple):
            return type(data)(self.cast_data(value) for value in data)
        if isinstance(data, Tensor):
            return data.to(self._device, non_blocking=self._non_blocking)
        if isinstance(data, DataElement):
            return data.to(self._device, non_blocking=True) if self._non_blocking else data.to(self._device)
        return data.to(self._device) if hasattr(data, "to") else data

    def forward(self, data: Any, training: bool = False) -> Any:
        """Prepare a batch.

        Args:
            data: A batch as the loader yields it.
            training: Whether the batch is for training.
        """
        return self.cast_data(data)
