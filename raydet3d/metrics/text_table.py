"""Align the columns of a table of scores."""

from __future__ import annotations

from collections.abc import Sequence


def align_columns(rows: Sequence[Sequence[str]], *, num_names: int = 1) -> list[str]:
    """Join the cells of each row to a line.

    Args:
        rows: Rows of equal length, the head first.
        num_names: First columns that are aligned left; the others are numbers, aligned right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < num_names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
