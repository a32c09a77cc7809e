"""Comparing arrays so that a failure says where, by how much, and what stood there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def assert_close(actual: Any, expected: Any, *, atol: float = 0.0, rtol: float = 0.0, name: str = "array") -> None:
    """Fail unless both have one shape and `|actual - expected| <= atol + rtol * |expected|`; NaN equals NaN.

    Args:
        actual: A tensor, an array or nested lists.
        expected: The same.
        atol: Absolute tolerance; with `rtol` 0 as well, the numbers must be equal.
        rtol: Relative tolerance.
        name: What to call it in the message.
    """
    got, want = _array(actual), _array(expected)
    assert got.shape == want.shape, f"{name}: shape is {got.shape}, expected {want.shape}"
    if got.dtype == bool or want.dtype == bool:
        wrong = got != want
        gap = wrong.astype(float)
    else:
        got, want = got.astype(np.float64), want.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.where(got == want, 0.0, np.abs(got - want))  # inf - inf is NaN, but equal
        gap = np.where(np.isnan(got) & np.isnan(want), 0.0, gap)
        with np.errstate(invalid="ignore"):
            wrong = ~(gap <= atol + np.nan_to_num(rtol * np.abs(want)))
    if not wrong.any():
        return
    places = np.argwhere(wrong)
    order = np.argsort(-np.nan_to_num(gap[wrong], nan=np.inf), kind="stable")[:5]
    lines = [f"{name}: {len(places)} of {wrong.size} numbers differ by more than atol={atol:g}, rtol={rtol:g}; worst:"]
    for place in places[order]:
        at = tuple(int(i) for i in place)
        lines.append(f"  {list(at)}: {got[at]!s} instead of {want[at]!s} (off by {gap[at]:.3g})")
    raise AssertionError("\n".join(lines))


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
