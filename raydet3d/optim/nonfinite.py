"""Skip steps whose loss or gradients are not finite, without waiting for the device.

A flag on the device is 1 if a step is bad. A bad step leaves weights and moments unchanged; a good step is bitwise
identical to the same step without the guard.

* On the CPU the flag is read, and the optimizer is not called for a bad step.
* A fused optimizer receives the flag as `found_inf`.
* With other optimizers, weights and moments are copied before the step and restored after it if the flag is 1, by
  integer arithmetic on their bits. Step counts on the host are corrected when the device is synchronised.

The forward pass changes the model's buffers (BatchNorm's running statistics) before the flag is known. They are copied
before a step's first forward pass and restored in the same way. The first step of each parameter synchronises with the
device, since its moments do not exist before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from operator import is_not
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from raydet3d.dist import all_reduce
from raydet3d.optim.torch_private import raise_if_nonfinite, step_without_profiler_range, takes_found_inf

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
UNREAD = 1024  # maximum number of unread verdicts that are kept


class Verdict(NamedTuple):
    """Whether a step was skipped.

    Attributes:
        iteration: Number of iterations counted when the step was due.
        is_bad: Whether the loss or a gradient was not finite.
        optimizer: Name of the optimizer if there are several, else empty.
    """

    iteration: int
    is_bad: bool
    optimizer: str = ""


def whole(value: Tensor) -> Tensor:
    """Return the full value of a sharded tensor, or the tensor itself; collective for a sharded tensor."""
    full = getattr(value, "full_tensor", None)
    return full() if full is not None else value


class FiniteGuard:
    """Check the gradients of each step, and take or skip the step.

    Args:
        device: Device of the weights.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flag = torch.zeros((), dtype=torch.float32, device=device)
        self.num_bad: int | Tensor = 0  # skipped steps; a tensor on the device until it is synchronised
        self.has_kept_buffers = False
        self._one = torch.ones((), dtype=torch.float32, device=device)
        self._on_host = device.type == "cpu"
        self._is_bad = False  # host copy of the flag, on the CPU only
        self._unread: deque[tuple[int, bool | Tensor]] = deque(maxlen=UNREAD)  # iteration, copy of the flag
        self._stepped: set[int] = set()  # ids of parameters that have taken a step
        self._num_excess: int | Tensor = 0  # bad steps included in the optimizer's step counts on the host
        self._model: int | None = None  # id of the model whose modules are listed
        self._owners: list[dict[str, Tensor | None]] = []  # `_buffers` of these modules
        self._found: list[Tensor | None] = []  # their contents at the last `keep_buffers`
        self._buffers: list[Tensor] = []  # restorable ones among them
        self._copies: list[Tensor] = []

    # ---- checking

    def loss_gradient(self, loss: Tensor) -> Tensor | None:
        """Return the initial gradient of the backward pass: None for 1, or NaN if the loss is not finite."""
        if self._on_host and math.isfinite(loss.item()):
            return None
        return loss.detach().mul(0).add_(1)

    def judge(self, numbers: Sequence[Tensor], iteration: int) -> None:
        """Set the flag to 1 if a number is not finite, else to 0.

        Args:
            numbers: The gradients, or a scalar that is finite exactly if the step is good, such as their norm.
            iteration: Number of iterations counted.
        """
        if self._is_bad or not self._on_host:  # else it is 0
            self.flag.zero_()
        is_sharded = type(numbers[0]) is not Tensor and hasattr(numbers[0], "to_local")
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in numbers:
            local: Tensor = tensor.to_local() if is_sharded else tensor  # type: ignore[attr-defined]
            dense = local._values() if local.layout is torch.sparse_coo else local
            by_type.setdefault(dense.dtype, []).append(torch.view_as_real(dense) if dense.is_complex() else dense)
        for tensors in by_type.values():
            raise_if_nonfinite(tensors, self.flag, self._one)
        if is_sharded:
            all_reduce(self.flag, "max")
        self._record(iteration)

    def _record(self, iteration: int) -> None:
        flag: bool | Tensor
        if self._on_host:
            flag = self._is_bad = self.flag.item() != 0
            self.num_bad += flag
        else:
            # The copy in pinned memory is -1 until the device has written it.
            is_cuda = self.device.type == "cuda"
            flag = (
                torch.full((), -1.0, dtype=torch.float32, pin_memory=True) if is_cuda else torch.empty_like(self.flag)
            )
            flag.copy_(self.flag, non_blocking=True)
            self.num_bad = self.num_bad + self.flag
        self._unread.append((iteration, flag))

    def verdicts(self, optimizer: Optimizer, *, wait: bool) -> list[Verdict]:
        """Return the known verdicts on the steps since the last call.

        Args:
            optimizer: The optimizer.
            wait: Synchronise with the device, so that all are known, and correct the step counts on the host.
        """
        if wait:
            self.settle(optimizer)
        known = []
        while self._unread and (wait or self._has_arrived(self._unread[0][1])):
            iteration, flag = self._unread.popleft()
            known.append(Verdict(iteration, bool(flag)))
        return known

    def _has_arrived(self, flag: bool | Tensor) -> bool:
        """Return whether the copy of a flag can be read without waiting for the device."""
        return isinstance(flag, bool) or (flag.device != self.device and flag.item() >= 0)

    def settle(self, optimizer: Optimizer) -> None:
        """Synchronise with the device, and subtract bad steps from the step counts that an optimizer keeps on the host.

        The verdicts remain unread.
        """
        self.num_bad = int(self.num_bad)
        self._model = None  # modules may have been replaced
        excess, self._num_excess = int(self._num_excess), 0
        for state in optimizer.state.values() if excess else ():
            step = state.get("step")
            if step is not None and not (isinstance(step, Tensor) and step.device == self.device):
                state["step"] = step - excess

    # ---- stepping

    def step(self, optimizer: Optimizer, active: Sequence[Tensor], **kwargs: Any) -> None:
        """Step the optimizer unless the flag is 1.

        Args:
            optimizer: The optimizer.
            active: Parameters with a gradient.
            **kwargs: Arguments of `optimizer.step`.
        """
        if self._on_host:
            if not self._is_bad:
                step_without_profiler_range(optimizer, **kwargs)
            return
        memory = self._memory(optimizer, active) if self._stepped.issuperset(map(id, active)) else None
        if memory is None:
            if not self.flag.item():
                optimizer.step(**kwargs)
                self._stepped.update(map(id, active))
        elif takes_found_inf(optimizer):
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]
            try:
                optimizer.step(**kwargs)
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
        else:
            before = [tensor.clone() for tensor in memory]
            optimizer.step(**kwargs)
            _restore(self._memory(optimizer, active) or [], before, self.flag)
            self._num_excess = self._num_excess + self.flag

    def _memory(self, optimizer: Optimizer, active: Sequence[Tensor]) -> list[Tensor] | None:
        """Return weights and optimizer state on the device; None if a part cannot be restored there.

        The step counts may be on the host.
        """
        found = [param.detach() for param in active]
        for param in active:
            for key, value in optimizer.state.get(param, {}).items():
                if isinstance(value, Tensor) and value.device == self.device and not value.is_sparse:
                    found.append(value)
                elif value is not None and key != "step":
                    return None
        return found

    # ---- buffers

    def keep_buffers(self, model: nn.Module) -> None:
        """Copy a model's buffers for `restore_buffers`, into memory that is allocated once."""
        if self._model != id(model):
            self._model, self._owners = id(model), [m._buffers for m in model.modules() if m._buffers]
        found = [buffer for owner in self._owners for buffer in owner.values()]
        if len(found) != len(self._found) or any(map(is_not, found, self._found)):
            # `.data`, so that restoring a buffer does not bump the version counter that autograd checks in backward.
            unique = {id(b): b.data for b in found if b is not None and self._is_restorable(b)}
            self._found, self._buffers = found, list(unique.values())
            self._copies = [torch.empty_like(b) for b in self._buffers]
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)
        self.has_kept_buffers = bool(found)

    def _is_restorable(self, buffer: Tensor) -> bool:
        return (
            not is_lazy(buffer)
            and buffer.device == self.device
            and buffer.layout is torch.strided
            and buffer.element_size() in BITS
            and buffer.is_contiguous()
        )

    def restore_buffers(self) -> None:
        """Restore the buffers that `keep_buffers` copied if the step was bad; invalidates the copies."""
        if self.has_kept_buffers and self._buffers:
            if not self._on_host:
                _restore(self._buffers, self._copies, self.flag)
            elif self._is_bad:
                torch._foreach_copy_(self._buffers, self._copies)
        self.has_kept_buffers = False


def _restore(tensors: Sequence[Tensor], before: Sequence[Tensor], flag: Tensor) -> None:
    """Overwrite `tensors` with `before` on the device if the flag is 1, bit for bit; modifies `before`."""
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for tensor, copy in zip(tensors, before, strict=True):
        bits = BITS[tensor.element_size()]
        new, old = by_type.setdefault(bits, ([], []))
        new.append(tensor.view(bits))
        old.append(copy.view(bits))
    for bits, (new, old) in by_type.items():
        undo = flag.to(bits)
        torch._foreach_mul_(new, 1 - undo)
        torch._foreach_mul_(old, undo)
        torch._foreach_add_(new, old)
