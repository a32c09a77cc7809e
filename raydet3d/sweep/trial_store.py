"""What is known of a sweep, as files of its folder: one small record a trial, written whole or not at all.

The ledger, not Ray's own state, is where a sweep goes on from: whatever is killed or damaged, each trial's record, its
reports and its checkpoints stand for themselves.

    SWEEP/sweep.json                what was asked
    SWEEP/time.json                 how much time it has taken
    SWEEP/standing.json             how the trials stand, best first (for those that make room for checkpoints)
    SWEEP/trials/003/trial.json     setting, seed, digest, state, reason, generations
    SWEEP/trials/003/setting.json   the first half of that, never rewritten
    SWEEP/trials/003/reports.jsonl  one line for each validation
    SWEEP/trials/003/end.json       how its process says that it ended
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from raydet3d.files import read_json_lines, set_aside, write_atomic
from raydet3d.log import get_logger

WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
OPEN = (WAITING, RUNNING)
STATES = (*OPEN, DONE, STOPPED, FAILED)


@dataclass(kw_only=True)
class Trial:
    """One trial.

    Args:
        id: Its name, and its folder's.
        number: Number of its setting.
        setting: What was drawn.
        seed: The run's seed; None where the config draws one.
        digest: Of the resolved config.
        state: `waiting`, `running`, `done`, `stopped` or `failed`.
        reason: Why it stopped or failed.
        length: Epochs or iterations of the whole run.
        generation: How often it has gone on from another trial's checkpoint.
        starts_from: The checkpoint that this generation started from.
        exploits: For each of them: `at`, `donor`, the setting `before`, and the donor's (`donors`).
        created: When it was made, in seconds since 1970.
        seconds: How long it has run.
        restarts: How often it was tried again in this start of the sweep, since a process or node had died.
        reports: Its validations, oldest first.
    """

    id: str
    number: int
    setting: dict[str, Any]
    seed: int | None
    digest: str
    state: str = WAITING
    reason: str = ""
    length: float = 0.0
    generation: int = 0
    starts_from: str | None = None
    exploits: list[dict[str, Any]] = field(default_factory=list)
    created: float = 0.0
    seconds: float = 0.0
    restarts: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)

    @property
    def at(self) -> float:
        """Epochs or iterations that it has reported."""
        return float(self.reports[-1]["at"]) if self.reports else 0.0

    def best(self, mode: str) -> float | None:
        """Its best value; None where it has none."""
        values = [float(report["score"]) for report in self.reports if math.isfinite(report["score"])]
        return (max(values) if mode == "max" else min(values)) if values else None


class TrialStore:
    """The files of a sweep's folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials = path / "trials"

    def folder(self, trial: str) -> Path:
        """A trial's folder."""
        return self.trials / trial

    def create(self, trial: Trial) -> None:
        """Write down a new trial."""
        self.folder(trial.id).mkdir(parents=True, exist_ok=True)
        facts = {name: getattr(trial, name) for name in ("id", "number", "setting", "seed", "digest", "length")}
        write_json(self.folder(trial.id) / "setting.json", {**facts, "created": trial.created})
        self.save(trial)

    def save(self, trial: Trial) -> None:
        """Write a trial's record anew, without its reports: those have a file of their own."""
        record = {key: value for key, value in asdict(trial).items() if key != "reports"}
        write_json(self.folder(trial.id) / "trial.json", record)

    def load(self) -> tuple[list[Trial], list[str]]:
        """All trials, by name; and a sentence for each thing that could not be read."""
        out, wrong = [], []
        for folder in sorted(self.trials.iterdir()) if self.trials.is_dir() else []:
            if not folder.is_dir():
                continue
            record = _read_record(folder / "trial.json")
            if record is None:
                set_aside(folder / "trial.json")
                record = _read_record(folder / "setting.json")
                what = "it goes on from its checkpoints" if record else "its setting is lost, so it counts as failed"
                wrong.append(f"the record of trial {folder.name} cannot be read: {what}")
            out.append(self._restored(folder, record))
        return out, wrong

    def _restored(self, folder: Path, record: Mapping[str, Any] | None) -> Trial:
        if record is None:
            number = int("".join(filter(str.isdigit, folder.name.split("-")[0])) or 0)
            trial = Trial(id=folder.name, number=number, setting={}, seed=None, digest="")
            trial.state, trial.reason = FAILED, "its record is damaged"
        else:
            known = {f.name for f in fields(Trial)} - {"reports"}
            trial = Trial(**{key: value for key, value in record.items() if key in known})
        trial.reports = self.reports(trial.id)
        if trial.state in OPEN and trial.length and trial.at >= trial.length:
            trial.state = DONE
        return trial

    def reports(self, trial: str) -> list[dict[str, Any]]:
        """A trial's validations, each point of the run once; damaged lines are named and set aside."""
        lines, damage = read_json_lines(self.folder(trial) / "reports.jsonl", _is_report)
        if damage is not None:
            get_logger().warning("%s", damage)
        by_point: dict[float, dict[str, Any]] = {}
        for report in lines:
            at = float(report["at"])
            by_point = {point: other for point, other in by_point.items() if point < at}  # gone back to there
            by_point[at] = report
        return list(by_point.values())

    def note_time(self, seconds: float) -> None:
        """Write down how long the sweep has taken, all starts together."""
        write_json(self.path / "time.json", {"seconds": round(seconds, 1)})

    def time_spent(self) -> float:
        """The same, read; 0 where it is not known."""
        found = read_json(self.path / "time.json")
        seconds = found.get("seconds") if isinstance(found, dict) else None
        return max(float(cast("float", seconds)), 0.0) if _is_number(seconds) else 0.0

    def write_standing(self, trials: Iterable[Trial], mode: str) -> None:
        """Note how the trials stand, best first."""
        standing = [
            {"id": trial.id, "state": trial.state, "best": trial.best(mode)} for trial in ranked(list(trials), mode)
        ]
        write_json(self.path / "standing.json", standing)

    def standing(self) -> list[dict[str, Any]]:
        """The same, read."""
        found = read_json(self.path / "standing.json")
        return [entry for entry in found if _is_standing(entry)] if isinstance(found, list) else []


def ranked(trials: list[Trial], mode: str) -> list[Trial]:
    """Trials, best first: by the mean over their setting's seeds, then by their own value; failed ones come last.

    A setting of which a seed has failed comes after those of which none has: the mean of what is left is luck.
    """
    sign = -1.0 if mode == "max" else 1.0
    broken = {trial.number for trial in trials if trial.state == FAILED}
    of_setting: dict[int, list[float]] = {}
    for trial in trials:
        value = trial.best(mode)
        if value is not None and trial.state != FAILED:
            of_setting.setdefault(trial.number, []).append(value)
    means = {number: sum(values) / len(values) for number, values in of_setting.items()}

    def key(trial: Trial) -> tuple[Any, ...]:
        value = trial.best(mode)
        if trial.state == FAILED or value is None:
            return (2 if trial.state == FAILED else 1, False, 0.0, 0.0, trial.id)
        return (0, trial.number in broken, sign * means[trial.number], sign * value, trial.id)

    return sorted(trials, key=key)


def append_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Add a line to a trial's reports, on the disk before this returns."""
    with (folder / "reports.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(report) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=1, default=str).encode(), durable=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_report(entry: Mapping[str, Any]) -> bool:
    score = entry.get("score")
    return _is_number(entry.get("at")) and isinstance(score, int | float) and isinstance(entry.get("metrics", {}), dict)


def _is_standing(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or entry.get("state") not in STATES:
        return False
    return entry.get("best") is None or _is_number(entry["best"])


_VALID_RECORD: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("reason", "digest"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("length", "created", "seconds"), _is_number),
    **dict.fromkeys(("number", "generation"), lambda value: isinstance(value, int) and value >= 0),
    "setting": lambda value: isinstance(value, dict),
    "seed": lambda value: value is None or isinstance(value, int),
    "state": lambda value: value in STATES,
    "starts_from": lambda value: value is None or isinstance(value, str),
    "exploits": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
}


def _read_record(path: Path) -> dict[str, Any] | None:
    """A trial's record; None where there is none whose values can be used."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("id") != path.parent.name:
        return None
    if not {"number", "setting", "seed", "digest"} <= set(record):
        return None
    is_valid = all(key not in record or check(record[key]) for key, check in _VALID_RECORD.items())
    return record if is_valid else None


def read_json(path: Path) -> Any:
    """A JSON file's content; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
