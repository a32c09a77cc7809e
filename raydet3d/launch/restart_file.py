"""The log of a run's starts, and how far the last one came.

`work_dir/starts.jsonl` has one JSON object a line. A kill leaves no time to write, so the number of finished iterations
is kept in a file of a few bytes that every iteration updates (2 microseconds); the next start compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from raydet3d.checkpoint.log_upload import REACHED, STARTS
from raydet3d.files import read_json_lines, set_aside
from raydet3d.host import Machine
from raydet3d.log import get_logger
from raydet3d.run_status import RunResult

RestartEntry = TypedDict(
    "RestartEntry",
    {
        "run": str,
        "start": str,
        "time": str,
        "from": int,
        "redone": int,
        "workers": int,
        "why": str,
        "max_iters": int | None,
        "max_epochs": int | None,
        "batch_size": int,
        "config": str | None,
        "versions": dict[str, str],
        "machines": list[Machine],
        "finished": bool,
        "iter": int,
        "saved": int | None,
        "result": RunResult,
    },
    total=False,
)
"""A line of the log: of a start with `from` to `machines`, of an end with `finished` to `result`."""


def read_starts(work_dir: Path) -> list[RestartEntry]:
    """Return the entries of a work dir's log of starts, oldest first; log damaged lines and set them aside."""
    entries, damage = read_json_lines(work_dir / STARTS, _is_entry)
    if damage is not None:
        get_logger().warning("%s", damage)
    return cast("list[RestartEntry]", entries)


def _is_entry(entry: Mapping[str, object]) -> bool:
    """Whether a line has what its readers need: it is a start's, or an end's."""
    if not isinstance(entry.get("run"), str):
        return False
    if "from" in entry:
        return all(isinstance(entry.get(key), int) for key in ("from", "redone"))
    has_counts = isinstance(entry.get("iter"), int) and isinstance(entry.get("saved"), int | None)
    return has_counts and isinstance(entry.get("result", {}), dict)


def read_reached(work_dir: Path) -> int | None:
    """Return the iterations that the last start had finished when it ended or was killed."""
    try:
        return max(int((work_dir / REACHED).read_bytes()), 0)
    except IsADirectoryError:
        set_aside(work_dir / REACHED)
        return None
    except (OSError, ValueError):
        return None
