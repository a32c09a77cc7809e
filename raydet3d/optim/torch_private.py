"""The private parts of torch that the optim package uses, each with its public substitute where torch lacks it.

All are unchanged from torch 2.0 to 2.14; they are probed, so that another torch costs speed and not correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

_CHECK = getattr(torch, "_amp_foreach_non_finite_check_and_unscale_", None)
_PROFILER_ENABLED: Callable[[], bool] = getattr(torch._C._autograd, "_profiler_enabled", lambda: True)


def raise_if_nonfinite(tensors: Sequence[Tensor], flag: Tensor, one: Tensor) -> None:
    """Set a flag to 1 where a tensor has an element that is not finite; nothing else changes, and nothing waits.

    Args:
        tensors: Dense tensors of one type on the flag's device.
        flag: () float32.
        one: () float32, holding 1: the kernel multiplies by it, which changes no bit.
    """
    if _CHECK is not None:
        _CHECK(list(tensors), flag, one)
        return
    for tensor in tensors:
        flag.copy_(torch.maximum(flag, (~torch.isfinite(tensor)).any().float()))


def takes_found_inf(optimizer: Optimizer) -> bool:
    """Return whether an optimizer skips its step on the device where `found_inf` is 1, as fused ones do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def step_without_profiler_range(optimizer: Optimizer, **kwargs: Any) -> None:
    """Step an optimizer without the profiler range that torch opens around it, unless that would be noticed.

    torch wraps the `step` of every optimizer class. Opening the range takes as long as the step of a small model on a
    CPU. It is opened as usual if a profiler runs, a step hook is registered, or `step` was replaced on the object.

    Args:
        optimizer: The optimizer.
        **kwargs: Arguments of `optimizer.step`.
    """
    wrapped = type(optimizer).step
    inner = getattr(wrapped, "__wrapped__", None) if getattr(wrapped, "hooked", False) else None
    if inner is None or "step" in vars(optimizer) or _PROFILER_ENABLED() or _has_step_hooks(optimizer):
        optimizer.step(**kwargs)
    else:
        inner(optimizer, **kwargs)


def _has_step_hooks(optimizer: Any) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )
