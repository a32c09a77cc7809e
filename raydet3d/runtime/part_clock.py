"""Split the time of training and inference steps among the parts of a detector."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from raydet3d.models.detector_parts import detector_parts
from raydet3d.runtime.model_profile import Outputs, tensors_in


class PartClock:
    """Charges the time since the last charge to a name; on a GPU it waits for the device each time.

    Hooks charge the forward pass of every part but the head, which has no single call: what follows the neck is
    charged by the caller. In the backward pass a part ends when the first gradient of its input arrives, because
    autograd runs what was computed last first.

    Args:
        model: The detector, on its device.
        device: The device.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.times: dict[str, float] = defaultdict(float)
        self._device = device
        self._parts = {name: part.module for name, part in detector_parts(model).items()}
        self._last = time.perf_counter()
        self._running = ""
        self._arrived: set[str] = set()

    def start(self) -> None:
        """Begin a step: what happened before is charged to nothing."""
        self._wait()
        self._arrived.clear()
        self._last = time.perf_counter()

    def charge(self, name: str) -> None:
        """Charge the time since the last charge, or since `start`."""
        self._wait()
        now = time.perf_counter()
        self.times[name] += now - self._last
        self._last = now

    def start_backward(self) -> None:
        """Begin the backward pass, which runs the head's part first."""
        self._running = "bbox_head"

    def end_backward(self) -> None:
        """Charge the rest of the backward pass to the part in which it ends."""
        self.charge(f"{self._running} backward")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Charge the parts of the steps that run in the block."""
        hooks = []
        for name, module in self._parts.items():
            if name == "bbox_head":
                continue

            def before(_: nn.Module, __: tuple[object, ...]) -> None:
                self.charge("other")

            def after(module: nn.Module, _: tuple[object, ...], output: Outputs, name: str = name) -> None:
                self.charge(f"{name} forward" if torch.is_grad_enabled() else name)
                for tensor in tensors_in(output):
                    if tensor.requires_grad:
                        tensor.register_hook(lambda _: self._see_gradient(name))  # type: ignore[no-untyped-call]

            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _see_gradient(self, name: str) -> Tensor | None:
        """Charge the part after `name`, whose backward pass is over when the first gradient arrives here."""
        if name not in self._arrived:
            self._arrived.add(name)
            self.charge(f"{self._running} backward")
            self._running = name
        return None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
