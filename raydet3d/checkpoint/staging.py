"""Copy a state to host memory: the only part of a save for which training waits.

Buffers are reused from one copy to the next, since allocating fresh pages takes longer than filling them. From a GPU
the copies go to pinned memory asynchronously, in stream order; `wait` blocks until they are complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from raydet3d.checkpoint.nested import Keys, Nested, map_leaves


class HostStaging:
    """Copies states to host memory, each over the one before.

    A copy is valid until the next is taken.
    """

    def __init__(self) -> None:
        self._kept: dict[Keys, Tensor] = {}
        self._events: list[torch.cuda.Event] = []

    def take(self, state: Mapping[str, Nested]) -> dict[str, Nested]:
        """Copy nested containers with every tensor to the host; other values are kept.

        Call `wait` before reading it.
        """
        streams: set[torch.device] = set()

        def copy(value: Nested, keys: Keys) -> Nested:
            return self._copy_tensor(value.detach(), keys, streams) if isinstance(value, Tensor) else value

        copied = map_leaves(state, copy)
        for device in streams:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)
        return cast("dict[str, Nested]", copied)

    def wait(self) -> None:
        """Wait until the copies are complete; from any thread."""
        for event in self._events:
            event.synchronize()
        self._events.clear()

    def _copy_tensor(self, tensor: Tensor, keys: Keys, streams: set[torch.device]) -> Tensor:
        if not _is_plain(tensor):  # sharded, sparse, on another kind of device: torch knows how
            return tensor.to("cpu", copy=True)
        kept = self._kept.get(keys)
        if kept is None or (kept.shape, kept.dtype, kept.stride()) != (tensor.shape, tensor.dtype, tensor.stride()):
            kept = self._kept[keys] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        kept.copy_(tensor, non_blocking=tensor.is_cuda)
        if tensor.is_cuda:
            streams.add(tensor.device)
        return kept


def _is_plain(tensor: Tensor) -> bool:
    dense = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
    return dense and tensor.device.type in ("cpu", "cuda")
