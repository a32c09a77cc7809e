"""Copy a state to host memory: the only part of a save for which training waits.

Buffers are reused from one copy to the next, since allocating fresh pages takes longer than filling them. From a GPU
the copies go to pinned memory asynchronously, in stream order; `wait` blocks until they are complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Key = tuple[Any, ...]


class HostStaging:
    """Copies states to host memory, each over the one before.

    A copy is valid until the next is taken.
    """

    def __init__(self) -> None:
        self._kept: dict[Key, Tensor] = {}
        self._used: dict[Key, Tensor] = {}
        self._events: list[torch.cuda.Event] = []

    def take(self, state: Any) -> Any:
        """Copy nested containers with every tensor to the host; other values are kept.

        Call `wait` before reading it.
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
        """Wait until the copies are complete; from any thread."""
        for event in self._events:
            event.synchronize()
        self._events.clear()

    def forget(self) -> None:
        """Free the buffers."""
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
    """Copy nested containers with every tensor cloned to new host memory."""
    copies = HostStaging()
    copy = copies.take(value)
    copies.wait()
    return copy


def is_sharded(value: Any) -> bool:
    """Return whether nested containers have a tensor that is sharded over the ranks."""
    if isinstance(value, Mapping):
        return any(map(is_sharded, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_sharded, value))
    return hasattr(value, "full_tensor")  # without importing torch.distributed.tensor


def num_bytes(value: Any) -> int:
    """Return the bytes of all tensors in nested containers (of a sharded one, those of this rank)."""
    if isinstance(value, Tensor):
        local = value.to_local() if hasattr(value, "to_local") else value
        return int(local.numel() * local.element_size())
    if isinstance(value, (Mapping, list, tuple)):
        return sum(map(num_bytes, value.values() if isinstance(value, Mapping) else value))
    return 0


def _is_plain(tensor: Tensor) -> bool:
    dense = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
    return dense and tensor.device.type in ("cpu", "cuda")
