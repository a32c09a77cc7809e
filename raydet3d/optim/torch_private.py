"""The private parts of torch that the optim package uses, each with its public substitute where torch lacks it.

Both are what `torch.amp.GradScaler` itself relies on, unchanged from torch 2.0 to 2.14; they are probed, so that
another torch costs speed and not correctness.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

_CHECK = getattr(torch, "_amp_foreach_non_finite_check_and_unscale_", None)


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
