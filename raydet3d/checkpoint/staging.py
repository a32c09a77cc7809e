"""Copies of a state in host memory: the only thing that a checkpoint makes the training wait for.

The memory is kept from one copy to the next, so that it is there already (asking the system for fresh pages takes
longer than filling them). From a GPU the copies go to pinned memory and are only queued: what trains on comes after
them in the stream's order, and whoever reads them waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Key = tuple[Any, ...]


class HostStaging:
    """Copies states, each over the one before.

    A copy is valid until the next is taken.
    """

    def __init__(self) -> None:
        self._kept: dict[Key, Tensor] = {}
        self._used: dict[Key, Tensor] = {}
        self._events: list[torch.cuda.Event] = []

    def take(self, state: Any) -> Any:
        """A copy of nested containers with every tensor on the host; numbers and strings are kept.

        Call ``wait`` before reading it.
        """
        self._used = {}
        streams: set[torch.device] = set()
        copy = self._copy(state, (), streams)
        self._kept.update(self._used)
        for device in streams:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)
        return copy

    def wait(self) -> None:
        """Wait until what was taken is there; from any thread."""
        for event in self._events:
            event.synchronize()
        self._events.clear()

    def forget(self) -> None:
        """Give the memory back."""
        self._kept, self._used = {}, {}

    def _copy(self, value: Any, key: Key, streams: set[torch.device]) -> Any:
        if isinstance(value, Tensor):
            return self._copy_tensor(value.detach(), key, streams)
        if isinstance(value, Mapping):
            return {k: self._copy(item, (*key, k), streams) for k, item in value.items()}
        if isinstance(value, (list, tuple)):
            copies = [self._copy(item, (*key, i), streams) for i, item in enumerate(value)]
            return copies if isinstance(value, list) else tuple(copies)
        return value

    def _copy_tensor(self, tensor: Tensor, key: Key, streams: set[torch.device]) -> Tensor:
        if not _is_plain(tensor):  # sharded, sparse, on another kind of device: torch knows how
            return tensor.to("cpu", copy=True)
        kept = self._kept.get(key)
        if kept is None or (kept.shape, kept.dtype, kept.stride()) != (tensor.shape, tensor.dtype, tensor.stride()):
            kept = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        kept.copy_(tensor, non_blocking=tensor.is_cuda)
        if tensor.is_cuda:
            streams.add(tensor.device)
        self._used[key] = kept
        return kept


def to_host(value: Any) -> Any:
    """A copy of nested containers with every tensor cloned to the host, in memory of its own."""
    copies = HostStaging()
    copy = copies.take(value)
    copies.wait()
    return copy


def is_sharded(value: Any) -> bool:
    """Whether there is a tensor in nested containers that is sharded over the ranks."""
    if isinstance(value, Mapping):
        return any(map(is_sharded, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_sharded, value))
    return hasattr(value, "full_tensor")  # so as not to import half of torch.distributed for everybody


def num_bytes(value: Any) -> int:
    """Bytes of all tensors in nested containers (of a sharded one, those of this rank)."""
    if isinstance(value, Tensor):
        local = value.to_local() if hasattr(value, "to_local") else value
        return int(local.numel() * local.element_size())
    if isinstance(value, (Mapping, list, tuple)):
        return sum(map(num_bytes, value.values() if isinstance(value, Mapping) else value))
    return 0


def _is_plain(tensor: Tensor) -> bool:
    dense = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
    return dense and tensor.device.type in ("cpu", "cuda")
