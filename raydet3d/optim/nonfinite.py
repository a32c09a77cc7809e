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

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from raydet3d.dist import all_reduce
from raydet3d.optim.torch_private import raise_if_nonfinite, takes_found_inf

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
UNREAD = 64  # maximum number of unread verdicts that are kept


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
        self.num_bad = 0  # among the verdicts read so far
        self._one = torch.ones((), dtype=torch.float32, device=device)
        self._on_host = device.type == "cpu"
        self._is_bad = False  # host copy of the flag, on the CPU only
        self._pending: deque[tuple[int, Tensor, Any]] = deque()  # iteration, flag copied to the host, CUDA event
        self._known: deque[Verdict] = deque(maxlen=UNREAD)
        self._seen: set[int] = set()  # ids of parameters that have taken a step
        self._num_corrected = 0
        self._counts_on_host = False
        self._buffers = _Buffers(device)

    def loss_gradient(self, loss: Tensor) -> Tensor:
        """Return the initial gradient of the backward pass: 1, or NaN if the loss is not finite."""
        return loss.detach().mul(0).add_(1)

    # ---- checking

    def judge_gradients(self, grads: Sequence[Tensor], iteration: int) -> None:
        """Set the flag to 1 if a gradient is not finite, else to 0.

        Args:
            grads: The gradients.
            iteration: Number of iterations counted.
        """
        self.flag.zero_()
        is_sharded = hasattr(grads[0], "to_local")
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for grad in grads:
            local = grad.to_local() if is_sharded else grad  # type: ignore[attr-defined]
            local = local._values() if local.layout is torch.sparse_coo else local
            by_type.setdefault(local.dtype, []).append(torch.view_as_real(local) if local.is_complex() else local)
        for tensors in by_type.values():
            raise_if_nonfinite(tensors, self.flag, self._one)
        if is_sharded:
            all_reduce(self.flag, "max")
        self._record(iteration)

    def judge(self, number: Tensor, iteration: int) -> None:
        """Set the flag to 1 if a number is not finite, else to 0.

        Args:
            number: A number that is finite exactly if the step is good, such as the norm of all gradients.
            iteration: Number of iterations counted.
        """
        self.flag.copy_(~torch.isfinite(number.detach()))
        self._record(iteration)

    def _record(self, iteration: int) -> None:
        if self._on_host:
            self._is_bad = bool(self.flag)
            self._tell(iteration, self._is_bad)
            return
        flag, event = self.flag.clone(), None
        if self.device.type == "cuda":
            flag = torch.empty((), pin_memory=True).copy_(flag, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
        self._pending.append((iteration, flag, event))

    def _tell(self, iteration: int, is_bad: bool) -> None:
        self._known.append(Verdict(iteration, is_bad))
        self.num_bad += is_bad

    def verdicts(self, optimizer: Optimizer, *, wait: bool) -> list[Verdict]:
        """Return the known verdicts on the steps since the last call.

        Args:
            optimizer: The optimizer.
            wait: Synchronise with the device, so that all are known, and correct the step counts on the host.
        """
        while self._pending and (wait or (self._pending[0][2] is not None and self._pending[0][2].query())):
            iteration, flag, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            self._tell(iteration, bool(flag))
        if wait:
            self._buffers.forget_model()
            self._correct_counts(optimizer)
        known = list(self._known)
        self._known.clear()
        return known

    def settle(self, optimizer: Optimizer) -> None:
        """Synchronise with the device and correct the step counts; the verdicts remain unread."""
        self._known.extend(self.verdicts(optimizer, wait=True))

    def _correct_counts(self, optimizer: Optimizer) -> None:
        """Subtract bad steps from the step counts that an optimizer keeps on the host."""
        new, self._num_corrected = self.num_bad - self._num_corrected, self.num_bad
        if not new or not self._counts_on_host:
            return
        for state in optimizer.state.values():
            step = state.get("step") if isinstance(state, dict) else None
            if step is not None and not (isinstance(step, Tensor) and step.device == self.device):
                state["step"] = step - new

    # ---- stepping and restoring

    @property
    def has_kept_buffers(self) -> bool:
        """Whether there are copies for `restore_buffers` to restore."""
        return self._buffers.is_kept

    def keep_buffers(self, model: nn.Module) -> None:
        """Copy a model's buffers for `restore_buffers`."""
        self._buffers.keep(model)

    def restore_buffers(self) -> None:
        """Restore the buffers that `keep_buffers` copied if the step was bad, and discard the copies."""
        self._buffers.restore(self._is_bad if self._on_host else self.flag)

    def step(self, optimizer: Optimizer, active: Sequence[Tensor], **kwargs: Any) -> None:
        """Step the optimizer unless the flag is 1.

        Args:
            optimizer: The optimizer.
            active: Parameters with a gradient.
            **kwargs: Arguments of `optimizer.step`.
        """
        if self._on_host:
            if not self._is_bad:
                optimizer.step(**kwargs)
        elif any(id(p) not in self._seen for p in active) or not self._can_mask(optimizer, active):
            if not self.flag.item():
                optimizer.step(**kwargs)
                self._seen.update(map(id, active))
            else:
                self._num_corrected += 1  # the optimizer was not called, so no step count needs correction
        elif takes_found_inf(optimizer):
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]
            try:
                optimizer.step(**kwargs)
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
        else:
            before = [bits.clone() for bits in self._memory(optimizer, active)]
            optimizer.step(**kwargs)
            _restore(self._memory(optimizer, active), before, self.flag)
            self._counts_on_host = True

    def _can_mask(self, optimizer: Optimizer, active: Sequence[Tensor]) -> bool:
        """Return whether the optimizer's state, except step counts, consists of dense tensors on the device."""
        return all(
            value is None
            or key == "step"
            or (isinstance(value, Tensor) and value.device == self.device and not value.is_sparse)
            for param in active
            for key, value in optimizer.state.get(param, {}).items()
        )

    def _memory(self, optimizer: Optimizer, active: Sequence[Tensor]) -> list[Tensor]:
        """Return weights and optimizer state on the device as integer views."""
        state = [v for p in active for v in optimizer.state.get(p, {}).values()]
        return _bits([p.detach() for p in active]) + _bits(
            [v for v in state if isinstance(v, Tensor) and v.device == self.device]
        )


class _Buffers:
    """Copies of a model's buffers from before a step, in memory that is allocated once.

    Args:
        device: Device of the buffers to copy.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_kept = False
        self._device = device
        self._model: int | None = None
        self._slots: list[tuple[dict[str, Tensor | None], str]] = []  # (`module._buffers`, name) of all buffers
        self._found: list[Tensor | None] = []  # contents of the slots at the last `keep`
        self._buffers: list[Tensor] = []  # restorable ones among them
        self._copies: list[Tensor] = []

    def forget_model(self) -> None:
        """Collect the model's modules again at the next `keep`."""
        self._model = None

    def keep(self, model: nn.Module) -> None:
        """Copy the buffers."""
        if self._model != id(model):
            self._slots = [(m._buffers, name) for m in model.modules() for name in m._buffers]
            self._model, self._found = id(model), []
        found = [buffers.get(name) for buffers, name in self._slots]
        if len(found) != len(self._found) or any(a is not b for a, b in zip(found, self._found, strict=True)):
            unique = {id(b): b for b in found if b is not None and self._is_restorable(b)}
            # `.data`, so that restoring a buffer does not bump the version counter that autograd checks in backward.
            self._found, self._buffers = found, [b.data for b in unique.values()]
            self._copies = [torch.empty_like(b) for b in self._buffers]
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)
        self.is_kept = bool(found)

    def _is_restorable(self, buffer: Tensor) -> bool:
        return (
            not is_lazy(buffer)
            and buffer.device == self._device
            and buffer.layout is torch.strided
            and buffer.element_size() in BITS
            and buffer.is_contiguous()
        )

    def restore(self, is_bad: bool | Tensor) -> None:
        """Restore the copies made by `keep` if the step was bad; invalidates the copies."""
        if self.is_kept and self._buffers:
            if isinstance(is_bad, Tensor):
                _restore(_bits(self._buffers), _bits(self._copies), is_bad)
            elif is_bad:
                torch._foreach_copy_(self._buffers, self._copies)
        self.is_kept = False


def _bits(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return integer views of tensors."""
    return [t.view(BITS[t.element_size()]) for t in tensors]


def _restore(after: Sequence[Tensor], before: Sequence[Tensor], flag: Tensor) -> None:
    """Overwrite `after` with `before` on the device if the flag is 1; modifies `before`."""
    for dtype in {bits.dtype for bits in after}:
        old = [bits for bits in before if bits.dtype is dtype]
        new = [bits for bits in after if bits.dtype is dtype]
        undo = flag.to(dtype)
        torch._foreach_mul_(new, 1 - undo)
        torch._foreach_mul_(old, undo)
        torch._foreach_add_(new, old)
