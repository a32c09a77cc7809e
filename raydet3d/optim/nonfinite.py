"""Keeps non-finite gradients out of the weights, without waiting for the device.

Whether a step is bad is a flag on the device. A bad step leaves weights and moments as they were and is counted
there; whoever wants the count reads it when it reads everything else. A good step is bit for bit the step that would
have been taken without the guard.

How a step is skipped depends on where the weights are:

* on the CPU there is nobody to wait for, so the flag is looked at;
* a fused optimizer takes the flag as `found_inf`;
* with any other, weights and moments are copied before the step and, by integer arithmetic on their bits, put back or
  not after it. Host-side step counts are set right when the count of bad steps is read.

The forward pass has changed the model's buffers by then (BatchNorm's running statistics), and one batch that is not
finite would spoil them for good. They are copied where a step's first forward pass begins, and put back in the same
ways.

The first step of each parameter waits for the flag, because its moments do not exist before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from raydet3d.dist import all_reduce
from raydet3d.optim.bare import BareStep

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SHORT = (torch.float16, torch.bfloat16)
UNASKED = 64  # verdicts that are kept where nobody asks
NEVER = 2**62


def whole(value: Tensor) -> Tensor:
    """A sharded tensor's full value, on every rank alike."""
    full = getattr(value, "full_tensor", None)
    return full() if full is not None else value


def largest(grads: Sequence[Tensor]) -> Tensor:
    """A number that is finite exactly if all gradients are (a scalar on their device)."""
    dense = [g._values() if g.layout is torch.sparse_coo else g for g in grads]
    if hasattr(dense[0], "full_tensor"):
        return _verdict_on_shards(dense)
    if dense[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(dense, float("inf"))
    # On the CPU the 2-norm is much faster; it may overflow where the gradients do not, so then look closely.
    norm = torch.stack(torch._foreach_norm(dense, 2.0)).max()
    return norm if is_finite(norm) else torch.stack([g.abs().max() for g in dense if g.numel()]).max()


def _verdict_on_shards(grads: Sequence[Any]) -> Tensor:
    """0 if all shards of all ranks are finite, else infinite. A rank may have nothing of a small parameter."""
    local = [grad.to_local() for grad in grads]
    held = [part for part in local if part.numel()]
    norm = torch.nn.utils.get_total_norm(held, math.inf) if held else local[0].new_zeros(())
    bad = (~torch.isfinite(norm)).float()
    all_reduce(bad, "max")
    return torch.where(bad > 0, math.inf, 0.0)


def _is_usual(grad: Tensor) -> bool:
    return grad.dtype is torch.float32 and grad.layout is torch.strided and type(grad) is Tensor


def is_finite(number: Tensor) -> bool:
    """Whether a number on the CPU is finite; no torch operation reads it."""
    number = number.detach()
    return math.isfinite((number.float() if number.dtype in SHORT else number).numpy().item())


class FiniteGuard:
    """Judges gradients, and takes the step or leaves it.

    Args:
        device: Where the flag and the count live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flag = torch.zeros((), dtype=torch.float32, device=device)
        self.bad_steps = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad = torch.full((), NEVER, dtype=torch.int64, device=device)
        self.row = torch.zeros((), dtype=torch.int64, device=device)  # bad steps in a row, up to now
        self._verdicts: deque[tuple[int, Any, Any]] = deque(maxlen=UNASKED)
        self._on_host = device.type == "cpu"
        # A cell of memory seen from two sides: torch raises it, and no torch operation is needed to read it.
        self._raised = np.zeros(1, dtype=np.float32)
        self._cell, self._one = torch.from_numpy(self._raised), torch.ones(1)
        self._bare: BareStep | None = None
        self._bad = False
        self._met: set[int] = set()
        self._corrected = self._reported = 0
        self._counts_on_host = False
        self._kept = False
        self._slots: list[tuple[dict[str, Tensor | None], str]] = []  # where the model keeps its buffers
        self._slots_of: int | None = None  # which model's these are
        self._found: list[Tensor | None] = []  # what was in the slots
        self._buffers: list[Tensor] = []  # of these, the ones that can be put back
        self._copies: list[Tensor] = []  # as they were

    def seed(self, loss: Tensor) -> Tensor | None:
        """The gradient to start the backward pass with: 1 (None stands for it), or NaN where the loss is not finite."""
        if not self._on_host:
            return loss.detach().mul(0).add_(1)
        return None if is_finite(loss) else torch.full_like(loss, math.nan)

    def judge(self, number: Tensor, now: int) -> None:
        """Raise the flag if a number is not finite, lower it otherwise, and count.

        Args:
            number: Scalar that is finite exactly if the step is good.
            now: Count of iterations, kept for the first bad one.
        """
        if self._on_host:
            self._set(not is_finite(number), now)
            return
        bad = number.detach().mul(0).ne(0).to(self.device)  # NaN is unequal to 0
        self.flag.copy_(bad)
        self.bad_steps.add_(bad)
        self.row.add_(1).mul_(bad)
        torch.minimum(self.first_bad, torch.where(bad, now, NEVER), out=self.first_bad)
        if self.device.type == "cuda":
            told = torch.empty((), dtype=torch.bool, pin_memory=True)
            arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            told.copy_(bad, non_blocking=True)
            arrived.record(torch.cuda.current_stream(self.device))
            self._verdicts.append((now, told, arrived))

    def verdicts(self) -> list[tuple[int, bool]]:
        """Steps judged since the last call, as (count of iterations, whether it was bad), as far as they are known.

        Never waits: what a GPU has not said yet comes with a later call.
        """
        known = []
        while self._verdicts and (self._verdicts[0][2] is None or self._verdicts[0][2].query()):
            now, bad, _ = self._verdicts.popleft()
            known.append((now, bool(bad)))
        return known

    def look(self, grads: Sequence[Tensor], now: int) -> None:
        """Raise the flag if a gradient is not finite, lower it otherwise, and count.

        Args:
            grads: The gradients.
            now: Count of iterations, kept for the first bad one.
        """
        if not self._on_host or not all(map(_is_usual, grads)):
            self.judge(largest(grads), now)
            return
        # One call for all. It multiplies by 1, which changes no bit, and raises the cell at what is not finite.
        self._raised[0] = 0
        torch._amp_foreach_non_finite_check_and_unscale_(list(grads), self._cell, self._one)
        self._set(bool(self._raised[0]), now)

    def _set(self, bad: bool, now: int) -> None:
        self._verdicts.append((now, bad, None))
        if bad:
            self.bad_steps.add_(1)
            self.row.add_(1)
            self.first_bad.clamp_(max=now)
        elif self._bad:
            self.row.zero_()
        self._bad = bad

    def keep_buffers(self, model: nn.Module) -> None:
        """Note what a model's buffers hold, for `put_back`; the memory is taken once.

        The model is looked through once, and again after each `read`.

        Args:
            model: The model.
        """
        if self._slots_of != id(model):
            self._slots = [(m._buffers, name) for m in model.modules() for name in m._buffers]
            self._slots_of, self._found = id(model), []
        if not self._slots:
            return
        found = [buffers.get(name) for buffers, name in self._slots]
        if len(found) != len(self._found) or any(a is not b for a, b in zip(found, self._found, strict=True)):
            mine = {id(b): b for b in found if b is not None and _is_kept(b, self.device)}
            # `.data`: putting a buffer back is not a change that a later backward pass has to know of.
            self._found, self._buffers = found, [b.data for b in mine.values()]
            self._copies = [torch.empty_like(b) for b in self._buffers]
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)
        self._kept = True

    def put_back(self) -> None:
        """Give the buffers back what `keep_buffers` noted if the flag is up; leave every bit of them otherwise.

        The step is done then: there is nothing to be put back until the next `keep_buffers`.
        """
        if self._kept and self._buffers:
            if not self._on_host:
                _undo(_bits(self._buffers), _bits(self._copies), self.flag)
            elif self._bad:
                torch._foreach_copy_(self._buffers, self._copies)
        self._kept = False

    @property
    def keeps_buffers(self) -> bool:
        """Whether there is something for `put_back`."""
        return self._kept

    def step(self, optimizer: Optimizer, active: Sequence[Tensor], **kwargs: Any) -> None:
        """Let the optimizer step unless the flag is up.

        Args:
            optimizer: The optimizer.
            active: Parameters that have a gradient.
            kwargs: For `optimizer.step`.
        """
        if self._on_host:
            if not self._bad:
                if self._bare is None or self._bare.optimizer is not optimizer:
                    self._bare = BareStep(optimizer)
                self._bare(**kwargs)
            return
        if any(id(p) not in self._met for p in active) or not _is_plain(optimizer, active, self.device):
            if not self.flag.item():
                optimizer.step(**kwargs)
                self._met.update(map(id, active))
            else:
                self._corrected += 1  # it was not taken, so no count has to be set right for it
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]
            try:
                optimizer.step(**kwargs)
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
        else:
            masked_step(optimizer, active, self.flag, **kwargs)
            self._counts_on_host = True

    def settle(self, optimizer: Optimizer) -> int:
        """All bad steps so far; waits for the device, and takes them off the step counts that are kept on the host."""
        total = int(self.bad_steps)
        new, self._corrected = total - self._corrected, total
        if new and self._counts_on_host:
            for state in optimizer.state.values():
                step = state.get("step") if isinstance(state, dict) else None
                if step is not None and not (isinstance(step, Tensor) and step.device == self.device):
                    state["step"] = step - new
        return total

    def read(self, optimizer: Optimizer) -> tuple[int, int]:
        """Bad steps since the last reading, and the count of iterations at the first of them (-1: none)."""
        self._slots_of = None
        total = self.settle(optimizer)
        new, self._reported = total - self._reported, total
        if not new:
            return 0, -1
        first = int(self.first_bad)
        self.first_bad.fill_(NEVER)
        return new, first


def _is_plain(optimizer: Optimizer, active: Sequence[Tensor], device: torch.device) -> bool:
    """Whether all of an optimizer's memory can be masked: tensors on the device, and a step count."""
    for param in active:
        for key, value in optimizer.state.get(param, {}).items():
            if value is None or key == "step":
                continue
            if not isinstance(value, Tensor) or value.device != device or value.is_sparse:
                return False
    return True


def _memory(optimizer: Optimizer, active: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Weights and state on the device, as integers of the same bits."""
    found = []
    for param in active:
        found.append(param.detach())
        found += [v for v in optimizer.state.get(param, {}).values() if isinstance(v, Tensor) and v.device == device]
    return _bits(found)


def _is_kept(buffer: Tensor, device: torch.device) -> bool:
    """Whether a buffer can be put back: made already, where the flag is, and each element its own memory."""
    if is_lazy(buffer) or buffer.device != device or buffer.layout is not torch.strided:
        return False
    return buffer.element_size() in BITS and buffer.is_contiguous()


def _bits(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors as integers of the same bits."""
    return [t.view(BITS[t.element_size()]) for t in tensors]


def _undo(after: Sequence[Tensor], before: Sequence[Tensor], flag: Tensor) -> None:
    """Where the flag is up, overwrite integers by those from before, which are used up; no value leaves the device."""
    for dtype in {bits.dtype for bits in after}:
        old = [bits for bits in before if bits.dtype is dtype]
        new = [bits for bits in after if bits.dtype is dtype]
        undo = flag.to(dtype)
        torch._foreach_mul_(new, 1 - undo)
        torch._foreach_mul_(old, undo)
        torch._foreach_add_(new, old)


def masked_step(optimizer: Optimizer, active: Sequence[Tensor], flag: Tensor, **kwargs: Any) -> None:
    """Step, and undo it where the flag is up; exact either way, and no value leaves the device.

    Args:
        optimizer: The optimizer; its state exists already.
        active: Parameters that have a gradient.
        flag: 0 or 1, a scalar on the device.
        kwargs: For `optimizer.step`.
    """
    before = [bits.clone() for bits in _memory(optimizer, active, flag.device)]
    optimizer.step(**kwargs)
    _undo(_memory(optimizer, active, flag.device), before, flag)
