"""Skip steps whose loss or gradients are not finite, without waiting for the device.

Whether a step is bad is a flag on the device. A bad step leaves weights and moments as they were; a good one is bit for
bit the step that would have been taken without the guard.

* On the CPU the flag is read, and the optimizer is not called.
* A fused optimizer takes the flag as `found_inf`.
* With any other, weights and moments are copied before the step and restored after it where the flag is 1, by integer
  arithmetic on their bits. Step counts on the host are corrected when the verdicts are waited for.

The forward pass has changed the model's buffers by then (BatchNorm's running statistics). They are copied before a
step's first forward pass and restored in the same way. The first step of each parameter waits for the flag, since its
moments do not exist before.
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
UNREAD = 64  # verdicts that are kept where nobody reads them


class Verdict(NamedTuple):
    """Whether a step was left out.

    Attributes:
        iteration: Iterations counted when the step was due.
        is_bad: Whether its loss or a gradient was not finite.
        optimizer: Name of the optimizer, where there are several.
    """

    iteration: int
    is_bad: bool
    optimizer: str = ""


def whole(value: Tensor) -> Tensor:
    """Return a sharded tensor's full value, which all ranks have to ask for."""
    full = getattr(value, "full_tensor", None)
    return full() if full is not None else value


class FiniteGuard:
    """Judges the gradients of each step, and takes the step or leaves it out.

    Args:
        device: Device of the weights.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flag = torch.zeros((), dtype=torch.float32, device=device)
        self.num_bad = 0  # as far as the verdicts are known
        self._one = torch.ones((), dtype=torch.float32, device=device)
        self._on_host = device.type == "cpu"
        self._is_bad = False  # the flag's value, on the host
        self._pending: deque[tuple[int, Tensor, Any]] = deque()  # iteration, flag on its way to the host, CUDA event
        self._known: deque[Verdict] = deque(maxlen=UNREAD)
        self._seen: set[int] = set()  # parameters that have had a step
        self._num_corrected = 0
        self._counts_on_host = False
        self._buffers = _Buffers(device)

    def loss_gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient that the backward pass starts with: 1, or NaN where the loss is not finite."""
        return loss.detach().mul(0).add_(1)

    # ---- judging

    def judge_gradients(self, grads: Sequence[Tensor], iteration: int) -> None:
        """Set the flag to 1 if a gradient is not finite, else to 0.

        Args:
            grads: The gradients.
            iteration: Iterations counted.
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
            iteration: Iterations counted.
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
        """Return the verdicts on the steps since the last call, as far as they are known.

        Args:
            optimizer: The optimizer.
            wait: Wait for the device, so that all are known; the step counts on the host are corrected then.
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
        """Wait for the device, and correct the step counts; the verdicts stay to be read."""
        self._known.extend(self.verdicts(optimizer, wait=True))

    def _correct_counts(self, optimizer: Optimizer) -> None:
        """Take bad steps off the step counts that an optimizer keeps on the host."""
        new, self._num_corrected = self.num_bad - self._num_corrected, self.num_bad
        if not new or not self._counts_on_host:
            return
        for state in optimizer.state.values():
            step = state.get("step") if isinstance(state, dict) else None
            if step is not None and not (isinstance(step, Tensor) and step.device == self.device):
                state["step"] = step - new

    # ---- acting

    @property
    def has_kept_buffers(self) -> bool:
        """Whether `restore_buffers` has something to restore."""
        return self._buffers.is_kept

    def keep_buffers(self, model: nn.Module) -> None:
        """Copy a model's buffers, for `restore_buffers`."""
        self._buffers.keep(model)

    def restore_buffers(self) -> None:
        """End a step: where it was bad, the buffers get back what `keep_buffers` copied."""
        self._buffers.restore(self._is_bad if self._on_host else self.flag)

    def step(self, optimizer: Optimizer, active: Sequence[Tensor], **kwargs: Any) -> None:
        """Let the optimizer step unless the flag is 1.

        Args:
            optimizer: The optimizer.
            active: Parameters that have a gradient.
            **kwargs: For `optimizer.step`.
        """
        if self._on_host:
            if not self._is_bad:
                optimizer.step(**kwargs)
        elif any(id(p) not in self._seen for p in active) or not self._can_mask(optimizer, active):
            if not self.flag.item():
                optimizer.step(**kwargs)
                self._seen.update(map(id, active))
            else:
                self._num_corrected += 1  # it was not taken, so no count has to be corrected for it
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
        """Return whether all of an optimizer's state but the step count is dense tensors on the device."""
        return all(
            value is None
            or key == "step"
            or (isinstance(value, Tensor) and value.device == self.device and not value.is_sparse)
            for param in active
            for key, value in optimizer.state.get(param, {}).items()
        )

    def _memory(self, optimizer: Optimizer, active: Sequence[Tensor]) -> list[Tensor]:
        """Return weights and state on the device, as integers of the same bits."""
        state = [v for p in active for v in optimizer.state.get(p, {}).values()]
        return _bits([p.detach() for p in active]) + _bits(
            [v for v in state if isinstance(v, Tensor) and v.device == self.device]
        )


class _Buffers:
    """Copies of a model's buffers from before a step. The memory for them is allocated once.

    Args:
        device: Device of the buffers that are kept.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_kept = False
        self._device = device
        self._model: int | None = None
        self._slots: list[tuple[dict[str, Tensor | None], str]] = []  # where the model's modules keep their buffers
        self._found: list[Tensor | None] = []  # what the slots held
        self._buffers: list[Tensor] = []  # those of them that can be restored
        self._copies: list[Tensor] = []

    def forget_model(self) -> None:
        """Look for new modules at the next `keep`."""
        self._model = None

    def keep(self, model: nn.Module) -> None:
        """Copy the buffers."""
        if self._model != id(model):
            self._slots = [(m._buffers, name) for m in model.modules() for name in m._buffers]
            self._model, self._found = id(model), []
        found = [buffers.get(name) for buffers, name in self._slots]
        if len(found) != len(self._found) or any(a is not b for a, b in zip(found, self._found, strict=True)):
            unique = {id(b): b for b in found if b is not None and self._is_restorable(b)}
            # `.data`: restoring a buffer is not a change that a later backward pass has to know of.
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
        """Restore what `keep` copied where the step was bad; the copies are used up."""
        if self.is_kept and self._buffers:
            if isinstance(is_bad, Tensor):
                _restore(_bits(self._buffers), _bits(self._copies), is_bad)
            elif is_bad:
                torch._foreach_copy_(self._buffers, self._copies)
        self.is_kept = False


def _bits(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors as integers of the same bits."""
    return [t.view(BITS[t.element_size()]) for t in tensors]


def _restore(after: Sequence[Tensor], before: Sequence[Tensor], flag: Tensor) -> None:
    """Overwrite integers by those from before where the flag is 1, on the device; `before` is used up."""
    for dtype in {bits.dtype for bits in after}:
        old = [bits for bits in before if bits.dtype is dtype]
        new = [bits for bits in after if bits.dtype is dtype]
        undo = flag.to(dtype)
        torch._foreach_mul_(new, 1 - undo)
        torch._foreach_mul_(old, undo)
        torch._foreach_add_(new, old)
