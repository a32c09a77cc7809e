"""The journal of a run's starts, one JSON object a line in ``work_dir/starts.jsonl``, and how far the last one came.

A kill leaves no time to write, so how far training came is kept in a file of a few bytes that every iteration updates
(2 microseconds); the next start compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE, REACHED = "starts.jsonl", ".reached"


def read_starts(work_dir: Path) -> list[dict[str, Any]]:
    """The lines of a work dir's starts, oldest first; what a kill has torn is left out."""
    out = []
    try:
        lines = (work_dir / FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            out.append(entry)
    return out


def read_reached(work_dir: Path) -> int | None:
    """Iterations that the last start had finished, when it ended or was killed."""
    try:
        return int((work_dir / REACHED).read_text())
    except (OSError, ValueError):
        return None
