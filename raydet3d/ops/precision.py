"""Casts between floating-point types: to what autocast computes in, and back to float32."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast_half(values: Tensor) -> Tensor:
    """Cast float16 and bfloat16 to float32; leave float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def cast_to_autocast(values: Tensor) -> Tensor:
    """Cast to the type that autocast uses on the tensor's device; do nothing where autocast is off."""
    device = values.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return values.to(torch.get_autocast_dtype(device))
    return values
