"""An optimizer's step without the profiler's range round it, which takes a third of a small model's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as torchs


class BareStep:
    """Steps an optimizer; by the short way while nobody can tell the difference.

    Torch wraps the `step` of every optimizer class into one that opens a range for the profiler and calls hooks. The
    short way is the function inside; it is taken as long as no profiler runs, no hook is registered, and the step has
    not been replaced on the object.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        step = type(optimizer).step
        inner = getattr(step, "__wrapped__", None) if getattr(step, "hooked", False) else None
        self._inner: Callable[..., Any] | None = inner

    def __call__(self, **kwargs: Any) -> None:
        """Step."""
        optimizer, inner = self.optimizer, self._inner
        if (
            inner is None
            or "step" in vars(optimizer)
            or torch._C._autograd._profiler_enabled()
            or _is_watched(optimizer)
        ):
            optimizer.step(**kwargs)
        else:
            inner(optimizer, **kwargs)


def _is_watched(optimizer: Any) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torchs._global_optimizer_pre_hooks
        or torchs._global_optimizer_post_hooks
    )
