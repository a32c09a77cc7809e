"""Store the state of a sweep in small files of its folder, each written atomically.

A sweep resumes from these files, not from Ray's own state: if something is killed or damaged, each trial's record, its
reports and its checkpoints can be read alone.

    SWEEP/sweep.json                definition of the sweep
    SWEEP/time.json                 time that it has taken
    SWEEP/standing.json             ranking, best trial first (read where checkpoints are deleted)
    SWEEP/trials/003/trial.json     setting, seed, digest, state, reason, generations
    SWEEP/trials/003/setting.json   the first half of that, never rewritten
    SWEEP/trials/003/reports.jsonl  one line for each validation
    SWEEP/trials/003/end.json       final state, written by its process
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeGuard, cast, get_type_hints

from annotated_types import Gt, Lt

from raydet3d.config.type_check import NonNegativeInt, field_types, fits
from raydet3d.files import read_json_lines, set_aside, write_atomic
from raydet3d.log import get_logger
from raydet3d.sweep.domains import Value
from raydet3d.sweep.space import Setting

State = Literal["waiting", "running", "done", "stopped", "failed"]
WAITING: State = "waiting"
RUNNING: State = "running"
DONE: State = "done"
STOPPED: State = "stopped"
FAILED: State = "failed"
OPEN = (WAITING, RUNNING)
REPORTS = "reports.jsonl"
STATES = (*OPEN, DONE, STOPPED, FAILED)
Finite = Annotated[float, Gt(-1e300), Lt(1e300)]


class TrialReport(TypedDict):
    """One validation of a trial, a line of `reports.jsonl`; `at` is in epochs or iterations, `time` since 1970."""

    at: float
    score: float
    time: NotRequired[float]
    seconds: NotRequired[float]
    epoch: NotRequired[int]
    iter: NotRequired[int]
    generation: NotRequired[int]
    metrics: NotRequired[dict[str, float]]


class Exploit(TypedDict):
    """A copy in population based training: when, from whom, and the settings of both before it."""

    at: float
    donor: str
    before: Setting
    donors: Setting
    time: float


class Rank(TypedDict):
    """A trial's entry in `standing.json`."""

    id: str
    state: State
    best: float | None


class SweepRecord(TypedDict):
    """The content of `sweep.json`."""

    name: str
    config: str
    options: dict[str, Value]
    spec: dict[str, Value]
    metric: str
    mode: str
    counter: str
    num_seeds: int
    kinds: dict[str, str]
    own_values: Setting
    digest: str
    started: str


@dataclass(kw_only=True)
class Trial:
    """One trial.

    Args:
        id: Its name, and its folder's.
        number: Number of its setting.
        setting: The sampled values.
        seed: The run's seed; None where the config draws one.
        digest: Of the resolved config.
        state: `waiting`, `running`, `done`, `stopped` or `failed`.
        reason: Why it stopped or failed.
        length: Epochs or iterations of the whole run.
        generation: How often it has continued from another trial's checkpoint.
        starts_from: The checkpoint that this generation started from.
        exploits: For each of them: `at`, `donor`, the setting `before`, and the donor's (`donors`).
        created: When it was made, in seconds since 1970.
        seconds: How long it has run.
        restarts: How often it was tried again in this start of the sweep, since a process or node had died.
        reports: Its validations, oldest first.
    """

    id: str
    number: NonNegativeInt
    setting: Setting
    seed: int | None
    digest: str
    state: State = WAITING
    reason: str = ""
    length: Finite = 0.0
    generation: NonNegativeInt = 0
    starts_from: str | None = None
    exploits: list[Exploit] = field(default_factory=list)
    created: Finite = 0.0
    seconds: Finite = 0.0
    restarts: NonNegativeInt = 0
    reports: list[TrialReport] = field(default_factory=list)

    @property
    def at(self) -> float:
        """Epochs or iterations that it has reported."""
        return float(self.reports[-1]["at"]) if self.reports else 0.0

    @property
    def first_setting(self) -> Setting:
        """What the search has proposed: in population based training, the setting changes later."""
        return self.exploits[0]["before"] if self.exploits else self.setting

    def best(self, mode: str) -> float | None:
        """Return its best value; None if it has none."""
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
        """Return a trial's folder."""
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
        """Return all trials, by name, and a sentence for everything that could not be read."""
        out, wrong = [], []
        for folder in sorted(self.trials.iterdir()) if self.trials.is_dir() else []:
            if not folder.is_dir():
                continue
            trial = _read_record(folder / "trial.json")
            if trial is None:
                set_aside(folder / "trial.json")
                trial = _read_record(folder / "setting.json")
                what = "it resumes from its checkpoints" if trial else "its setting is lost, so it counts as failed"
                wrong.append(f"the record of trial {folder.name} cannot be read: {what}")
            if trial is None:
                number = int("".join(filter(str.isdigit, folder.name.split("-")[0])) or 0)
                trial = Trial(id=folder.name, number=number, setting={}, seed=None, digest="")
                trial.state, trial.reason = FAILED, "its record is damaged"
            trial.reports = self.reports(trial.id)
            if trial.state in OPEN and trial.length and trial.at >= trial.length:
                trial.state = DONE
            out.append(trial)
        return out, wrong

    def reports(self, trial: str) -> list[TrialReport]:
        """Return a trial's validations, each point of the run once; log damaged lines and set them aside."""
        lines, damage = read_json_lines(self.folder(trial) / REPORTS, _is_report)
        if damage is not None:
            get_logger().warning("%s", damage)
        by_point: dict[float, TrialReport] = {}
        for report in cast("list[TrialReport]", lines):
            at = float(report["at"])
            by_point = {point: other for point, other in by_point.items() if point < at}  # gone back to there
            by_point[at] = report
        return list(by_point.values())

    def note_time(self, seconds: float) -> None:
        """Write down how long the sweep has taken, all starts together."""
        write_json(self.path / "time.json", {"seconds": round(seconds, 1)})

    def time_spent(self) -> float:
        """Return how long it has taken; 0 where that is not known."""
        found = read_json(self.path / "time.json")
        seconds = found.get("seconds") if isinstance(found, dict) else None
        return max(float(seconds), 0.0) if _is_number(seconds) else 0.0

    def write_ranking(self, ranking: Sequence[Rank]) -> None:
        """Write the trials' states and best values, best first."""
        # Without indentation: with it, Python's encoder takes ten times as long, and this is written often.
        write_atomic(self.path / "standing.json", json.dumps(ranking).encode(), durable=True)

    def ranking(self) -> list[Rank]:
        """Return what `write_ranking` has written, without damaged entries."""
        found = read_json(self.path / "standing.json")
        return [entry for entry in found if _is_rank(entry)] if isinstance(found, list) else []


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small JSON file, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=1, default=str).encode(), durable=True)


def _is_number(value: Value) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_report(entry: Mapping[str, Any]) -> bool:
    score = entry.get("score")
    return _is_number(entry.get("at")) and isinstance(score, int | float) and isinstance(entry.get("metrics", {}), dict)


def _is_rank(entry: Value) -> TypeGuard[Rank]:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or entry.get("state") not in STATES:
        return False
    return entry.get("best") is None or _is_number(entry["best"])


def _is_exploit(entry: Value) -> TypeGuard[Exploit]:
    if not isinstance(entry, dict) or not _is_number(entry.get("at")) or not isinstance(entry.get("donor"), str):
        return False
    return isinstance(entry.get("before"), dict) and isinstance(entry.get("donors"), dict)


def _read_record(path: Path) -> Trial | None:
    """Read a trial's record; None where there is none whose values can be used."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("id") != path.parent.name:
        return None
    types = field_types(Trial)
    given = {key: value for key, value in record.items() if key in types and key != "reports"}
    is_whole = {"number", "setting", "seed", "digest"} <= set(given) and all(
        fits(types[key], value) for key, value in given.items()
    )
    return Trial(**given) if is_whole and all(map(_is_exploit, given.get("exploits", []))) else None


def read_sweep_record(folder: Path) -> SweepRecord | None:
    """Read a sweep's definition; None where there is none that can be used."""
    record = read_json(folder / "sweep.json")
    types = get_type_hints(SweepRecord)
    is_whole = isinstance(record, dict) and all(
        key in record and fits(kind, record[key]) for key, kind in types.items()
    )
    return cast(SweepRecord, record) if is_whole and record["mode"] in ("max", "min") else None


def read_json(path: Path) -> Any:
    """Read a JSON file; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
