"""Collision test of bird's-eye-view rectangles, for object sampling and object noise.

Shapes: A and B rectangles, P pairs. A rectangle is (4, 2): its corners in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def overlaps(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Test which rectangles of `a` overlap which of `b`; touching is not overlapping.

    Args:
        a: (A, 4, 2) corners.
        b: (B, 4, 2) corners.

    Returns:
        (A, B) booleans.
    """
    centre_a, centre_b = a.mean(1), b.mean(1)
    reach_a = np.hypot(*(a[:, 0] - centre_a).T)
    reach_b = np.hypot(*(b[:, 0] - centre_b).T)
    apart = centre_a[:, None] - centre_b
    # Only the few pairs whose circumscribed circles meet need the exact test.
    out: NDArray[np.bool_] = apart[..., 0] ** 2 + apart[..., 1] ** 2 < (reach_a[:, None] + reach_b) ** 2
    i, j = np.nonzero(out)
    if len(i):
        out[i, j] = ~(_separated(a[i], b[j]) | _separated(b[j], a[i]))
    return out


def _separated(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Test for each of P pairs (4, 2) whether a side of `a` separates it from `b`."""
    sides = a[:, [1, 3]] - a[:, :1]  # (P, 2 sides, xy)
    along = np.einsum("pcx,psx->psc", b - a[:, :1], sides)  # (P, sides, corners)
    length = (sides**2).sum(-1)
    gap: NDArray[np.bool_] = ((along.max(-1) <= 0) | (along.min(-1) >= length)).any(-1)
    return gap
