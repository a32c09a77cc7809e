"""Log the run's scalars to `work_dir/scalars.json` (JSON Lines), one file for all starts of the run."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path

from raydet3d.files import read_json_lines, write_atomic
from raydet3d.log import LineFile, get_logger


class ScalarLog:
    """Write one line of scalars per logged iteration and per validation, continued when the run resumes.

    Every line has `iter`, the number of iterations finished by then. When a run resumes from an iteration before the
    last one logged, the lines after it are removed, and the repeated ones are written with `"redone": true`.

    Args:
        path: The file. A new run starts a new file and renames an existing one (to `scalars_1.json`, ...).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reached = -1
        self._open = False
        self._lines = LineFile(path)

    def begin(self, iteration: int, *, drop_validation: bool = False) -> None:
        """Open the log at an iteration and remove the lines after it.

        Args:
            iteration: Number of iterations finished; 0 starts a new file.
            drop_validation: Also remove the validation line of exactly this iteration, because that validation is run
                again.
        """
        self._open = True
        self._lines.close()  # the file is replaced below; the next write must open the new one
        if iteration == 0:
            self._put_aside()
        entries, damage = read_json_lines(self.path, lambda entry: isinstance(entry.get("iter"), int))
        if damage is not None:
            get_logger().warning("%s", damage)
        is_cut = [
            entry["iter"] > iteration or (drop_validation and entry["iter"] == iteration and entry.get("mode") == "val")
            for entry in entries
        ]
        self._reached = max((entry["iter"] for entry, cut in zip(entries, is_cut, strict=True) if cut), default=-1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(entry) for entry, cut in zip(entries, is_cut, strict=True) if not cut]
        write_atomic(self.path, "".join(f"{line}\n" for line in kept).encode())

    def _put_aside(self) -> None:
        """Rename the file of an earlier run to the first free `scalars_N.json`."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return
        for number in itertools.count(1):
            aside = self.path.with_name(f"{self.path.stem}_{number}{self.path.suffix}")
            if not aside.exists():
                self.path.rename(aside)
                return

    def write(self, tag: Mapping[str, object], *, mode: str, iteration: int, step: int) -> None:
        """Append a line; before `begin`, do nothing.

        Args:
            tag: Scalars by name.
            mode: `train`, `val`, `guard` (iterations of steps left out) or `workers` (throughput of each rank).
            iteration: Number of iterations finished.
            step: Step of the scalars: iteration or epoch.
        """
        if not self._open:
            return
        line = {**tag, "step": step, "mode": mode, "iter": iteration}
        if iteration <= self._reached:
            line["redone"] = True
        self._lines.write(json.dumps({k: _to_json(v) for k, v in line.items()}))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _to_json(value: object) -> float | int | str | None:
    """Convert a value to standard JSON: NaN and infinity to null, values of other types to their text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (int, str)) or value is None else str(value)
