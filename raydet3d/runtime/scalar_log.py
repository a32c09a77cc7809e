"""The run's scalars as one file that goes on across starts: `work_dir/scalars.json`, a JSON object a line."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydet3d.files import read_json_lines, write_atomic
from raydet3d.log import LineFile, get_logger


class ScalarLog:
    """One line of numbers for each logged iteration and each validation, from the first start to the last.

    Every line has `iter`, the iterations finished then. When a run resumes from an earlier point than it had reached,
    what lies beyond that point is cut off, and the lines written again up to where the run had been before say
    `"redone": true`.

    Args:
        path: The file. A fresh run begins it anew, and puts one that is there aside (`scalars_1.json`, ...).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reached = -1
        self._open = False
        self._lines = LineFile(path)

    def begin(self, iteration: int, *, drop_validation: bool = False) -> None:
        """Make the file end at a point of the run.

        Args:
            iteration: Iterations finished there; lines beyond are cut off.
            drop_validation: Whether the validation at exactly that point is still to come, so a line of it goes too.
        """
        self._open = True
        self._lines.close()  # what is written from now on goes into the new file
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
        """Give an earlier run's record another name."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return
        for number in itertools.count(1):
            aside = self.path.with_name(f"{self.path.stem}_{number}{self.path.suffix}")
            if not aside.exists():
                self.path.rename(aside)
                return

    def write(self, tag: Mapping[str, Any], *, mode: str, iteration: int, step: int) -> None:
        """Add a line.

        Args:
            tag: Numbers by name.
            mode: `train` or `val`.
            iteration: Iterations finished.
            step: What the tag counts by: iteration, or epoch.
        """
        if not self._open:
            return
        line = {**tag, "step": step, "mode": mode, "iter": iteration}
        if iteration <= self._reached:
            line["redone"] = True
        self._lines.write(json.dumps({k: _to_json(v) for k, v in line.items()}))

    def close(self) -> None:
        """Give the file back."""
        self._lines.close()


def _to_json(value: Any) -> Any:
    """A value that every JSON reader takes: NaN and infinity become null, other things their text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (int, str)) or value is None else str(value)
