"""Parse the points of text clouds: one point a line."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from raydet3d.errors import InputError


def parse_ascii_points(body: bytes, num_points: int, num_columns: int, path: str) -> NDArray[np.float64]:
    """Parse the lines after a header.

    Args:
        body: The lines.
        num_points: Points that the header tells of.
        num_columns: Numbers of a point that the header tells of.
        path: The file, for messages.

    Returns:
        (num_points, num_columns).

    Raises:
        InputError: A line is malformed, or the lines do not fit the header.
    """
    if not num_points:
        return np.zeros((0, num_columns))
    try:
        table = np.loadtxt(io.BytesIO(body), dtype=np.float64, ndmin=2, max_rows=num_points)
    except ValueError as error:
        raise InputError(f"{path}: a point is malformed ({error})") from None
    if table.shape != (num_points, num_columns):
        raise InputError(
            f"{path}: {len(table)} points of {table.shape[1]} numbers, but its header tells of {num_points} of "
            f"{num_columns}"
        )
    return table
