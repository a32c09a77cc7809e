"""Read what a run has left in its work dir, local or behind a URI, without changing anything there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import yaml
from numpy.typing import NDArray

from raydet3d.checkpoint.completeness import read_manifest
from raydet3d.checkpoint.log_upload import REACHED, STARTS
from raydet3d.checkpoint.manifest import SUFFIX, Manifest
from raydet3d.checkpoint.storage import LocalStorage, Location, ObjectStorage, open_storage, read
from raydet3d.config import ConfigValue
from raydet3d.config.differences import read_dump
from raydet3d.errors import InputError
from raydet3d.host import Machine

if TYPE_CHECKING:
    from raydet3d.metrics.analysis import Analysis  # torch comes with its package; `watch` is to start at once

Columns = dict[str, NDArray[np.float64]]
"""Scalars by name, NaN where a line has none; `iter` is the number of finished iterations."""
SCALARS, ANALYSIS = "scalars.json", "analysis.json"
MODES = ("train", "val", "workers")
TRAIN = b'"mode": "train"'
ARROW_BYTES = 1 << 20  # files above this size are read by pyarrow


class StartRecord(TypedDict, total=False):
    """A start of a run, as `starts.jsonl` has it; `iteration` is where it began."""

    iteration: int
    redone: int
    workers: int
    why: str
    time: str
    max_iters: int | None
    max_epochs: int | None
    batch_size: int
    config: str | None
    versions: dict[str, str]
    machines: list[Machine]
    is_first: bool


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What is known of a run.

    Args:
        location: Its work dir.
        storage: The same, for reading.
        starts: Its starts, oldest first.
        result: Result that the run ended with, if it did.
        is_finished: Whether it came to its end.
        scalars: Scalars by mode (`train`, `val`, `workers`).
        bad_steps: Iterations whose steps were left out because a loss or gradient was not finite.
        manifests: Of the checkpoints that are there, oldest first.
        config_name: File name of the config.
        config: The config as it ran.
        config_text: The same, as text.
        analysis: Analysis of the best validation or evaluation.
    """

    location: Location
    storage: LocalStorage | ObjectStorage
    starts: list[StartRecord] = field(default_factory=list)
    result: Mapping[str, Any] = field(default_factory=dict)
    is_finished: bool = False
    scalars: Mapping[str, Columns] = field(default_factory=dict)
    bad_steps: list[int] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    config_name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    analysis: Analysis | None = None

    @property
    def name(self) -> str:
        """Name of the work dir."""
        return str(self.location).rstrip("/").rpartition("/")[2] or str(self.location)

    @property
    def restarts(self) -> list[StartRecord]:
        """Starts after the first."""
        return [start for start in self.starts if not start.get("is_first")]

    @cached_property
    def pictures(self) -> list[str]:
        """Names of the pictures that the run has drawn, by iteration."""
        found = []
        for folder in self.storage.names():
            inner = f"{folder}/vis_data/vis_image"
            if folder[:1].isdigit():
                found += [f"{inner}/{name}" for name in self.storage.names(inner) if name.endswith(".png")]
        return sorted(found, key=lambda name: _trailing_number(PurePosixPath(name).stem))


def read_run(location: Location) -> RunFiles:
    """Read a run.

    Args:
        location: Its work dir: a folder, or a URI.

    Raises:
        InputError: There is no run there.
    """
    storage = open_storage(location)
    try:
        names = storage.names()
    except OSError as error:
        raise InputError(f"{location}: cannot be read: {error.strerror or error}") from None
    starts, result, is_finished = read_starts(storage)
    scalars, bad_steps = read_scalars(_bytes(storage, _scalars_name(storage, names)))
    manifests = read_checkpoints(storage, names)
    analysis = _analysis(storage, names)
    if not (starts or scalars or manifests or analysis):
        raise InputError(f"{location}: there is no run here: no {SCALARS}, {STARTS}, {ANALYSIS} and no checkpoint")
    config_name, text = read_config_text(storage, names, starts)
    return RunFiles(
        location=location,
        storage=storage,
        starts=starts,
        result=result,
        is_finished=is_finished,
        scalars=scalars,
        bad_steps=bad_steps,
        manifests=manifests,
        config_name=config_name,
        config=parse_config(config_name, text),
        config_text=text,
        analysis=analysis,
    )


def _bytes(storage: LocalStorage | ObjectStorage, name: str) -> bytes:
    with suppress(OSError):
        return read(storage, name)
    return b""


def json_lines(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines; damaged lines, and the unfinished last one of a killed process, are skipped."""
    for line in data.splitlines():
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry


# ------------------------------------------------------------------------------------------------------------ starts


def read_starts(storage: LocalStorage | ObjectStorage) -> tuple[list[StartRecord], dict[str, Any], bool]:
    """Return the starts of the run that began last, its result, and whether it is finished."""
    entries = [entry for entry in json_lines(_bytes(storage, STARTS)) if isinstance(entry.get("run"), str)]
    own = [entry for entry in entries if entry["run"] == entries[-1]["run"]]
    starts: list[StartRecord] = []
    for entry in own:
        if isinstance(entry.get("from"), int):
            start: StartRecord = {"iteration": entry["from"], "is_first": not starts}
            known = StartRecord.__annotations__.keys() - {"iteration", "is_first"}
            start.update({key: entry[key] for key in known & entry.keys()})  # type: ignore[typeddict-item]
            starts.append(start)
    last = own[-1] if own else {}
    return starts, dict(last.get("result") or {}), last.get("finished") is True


def read_reached(storage: LocalStorage | ObjectStorage) -> tuple[int | None, float | None]:
    """Return the iterations finished by the last start, and when that was written (seconds since 1970)."""
    try:
        reached = int(_bytes(storage, REACHED))
        return max(reached, 0), storage.stat(REACHED)[1] / 1e9
    except (OSError, ValueError):
        return None, None


# ----------------------------------------------------------------------------------------------------------- scalars


def _scalars_name(storage: LocalStorage | ObjectStorage, names: list[str]) -> str:
    """Return the run's scalars; of a run of MMEngine, those of its newest start."""
    if SCALARS in names:
        return SCALARS
    older = [f"{name}/vis_data/{SCALARS}" for name in names if name[:1].isdigit()]
    return next((name for name in reversed(older) if storage.exists(name)), SCALARS)


def read_scalars(data: bytes) -> tuple[dict[str, Columns], list[int]]:
    """Read `scalars.json`: columns by mode, and the iterations of bad steps."""
    data = data[: data.rfind(b"\n") + 1]
    columns: dict[str, Columns] = {}
    if len(data) > ARROW_BYTES:
        # Lines of training only, which are many and alike: each further column would cost a value for every line.
        lines = data.splitlines(keepends=True)
        found = _read_with_arrow(b"".join(line for line in lines if TRAIN in line))
        if found is not None:
            columns["train"] = found
            data = b"".join(line for line in lines if TRAIN not in line)
    rows: dict[str, list[dict[str, Any]]] = {}
    bad: set[int] = set()
    for entry in json_lines(data):
        if not isinstance(entry.get("iter", entry.get("step")), int):
            continue
        entry.setdefault("iter", entry.get("step"))
        if entry.get("mode") == "guard":
            bad.update(bad_steps_of(entry.get("bad_steps")))
        else:
            rows.setdefault(str(entry.get("mode") or ("train" if "lr" in entry else "val")), []).append(entry)
    for mode in MODES:
        names = dict.fromkeys(key for row in rows.get(mode, ()) for key in row)
        some = {name: np.array([_number(row.get(name)) for row in rows[mode]]) for name in names}
        known = {name: values for name, values in some.items() if not np.isnan(values).all()}
        if known:
            columns[mode] = known
    return columns, sorted(bad)


def bad_steps_of(text: object) -> list[int]:
    """Return the iterations that a line of the guard names, as text: `[8, 10]`."""
    with suppress(ValueError):
        found = json.loads(text) if isinstance(text, str) else None
        return [one for one in found if isinstance(one, int)] if isinstance(found, list) else []
    return []


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


def _read_with_arrow(data: bytes) -> Columns | None:
    """Read many lines of one mode; None if one is damaged, or there is none."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    try:
        options = arrow_json.ReadOptions(block_size=1 << 24)
        table = arrow_json.read_json(pa.BufferReader(data), read_options=options)
    except pa.ArrowException:
        return None
    columns: Columns = {}
    for name in table.column_names:
        column = table[name]
        is_number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        if is_number and column.null_count < len(column):
            columns[name] = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
    return columns if "iter" in columns else None


def read_tail(storage: LocalStorage | ObjectStorage, length: int = 1 << 16) -> list[dict[str, Any]]:
    """Return the last lines of the run's scalars, without reading the file whole."""
    try:
        size = storage.stat(SCALARS)[0]
        with storage.open(SCALARS) as file:
            file.seek(max(size - length, 0), os.SEEK_SET)
            data = file.read()
    except OSError:
        return []
    return list(json_lines(data if size <= length else data[data.find(b"\n") + 1 :]))


# ----------------------------------------------------------------------------------------------- config, checkpoints


def read_config_text(
    storage: LocalStorage | ObjectStorage, names: list[str], starts: list[StartRecord]
) -> tuple[str, str]:
    """Return name and text of the config's copy in the work dir."""
    known = [PurePosixPath(start.get("config") or "").name for start in starts[-1:]]
    candidates = [*known, *(name for name in names if name.endswith((".py", ".yaml", ".yml")))]
    candidates += [f"{name}/vis_data/config.py" for name in reversed(names) if name[:1].isdigit()]
    for name in candidates:
        text = _bytes(storage, name).decode("utf-8", "replace") if name else ""
        if text:
            return PurePosixPath(name).name, text
    return "", ""


def parse_config(name: str, text: str) -> dict[str, Any]:
    """Return a dumped config as plain data, without running it; nothing where it cannot be read."""
    with suppress(ValueError, yaml.YAMLError):
        if name.endswith((".yaml", ".yml")):
            found = yaml.safe_load(text)
        else:
            found = json.loads(text) if name.endswith(".json") else read_dump(text)
        return found if isinstance(found, dict) else {}
    return {}


def read_checkpoints(storage: LocalStorage | ObjectStorage, names: list[str]) -> list[Manifest]:
    """Return the manifests of the work dir, oldest first; damaged ones are skipped and left as they are."""
    found = []
    for name in names:
        if name.endswith(f".pth{SUFFIX}") and not name.startswith("."):
            with suppress(OSError, ValueError):
                found.append(read_manifest(storage, name.removesuffix(SUFFIX)))
    return sorted(found, key=lambda manifest: manifest.serial)


def _analysis(storage: LocalStorage | ObjectStorage, names: list[str]) -> Analysis | None:
    """Return the analysis of the best validation or evaluation, else that of the newest evaluation.

    Files that are damaged or of another version, without a key that is read, are left out.
    """
    places = [ANALYSIS, *(f"{name}/{ANALYSIS}" for name in reversed(names) if name[:1].isdigit())]
    for place in places:
        with suppress(ValueError):
            found: Analysis = json.loads(_bytes(storage, place))
            is_known = isinstance(found, dict) and {"confusion", "tolerance", "sizes"} <= found.keys()
            if is_known and all("offsets" in one for one in found["errors"]):
                return found
    return None


def is_less_better(metric: str) -> bool:
    """Whether less of a metric is better, by its name."""
    from raydet3d.hooks.metric_rules import infer_rule  # torch comes with its package

    last = metric.rsplit("/", 1)[-1].lower()
    if any(part in last for part in ("_err", "mate", "mase", "maoe", "mave", "maae")):  # nuScenes' errors
        return True
    with suppress(InputError):
        return infer_rule(metric, owner="report", key="metric") == "less"
    return False


def _trailing_number(text: str) -> int:
    digits = text[len(text.rstrip("0123456789")) :]
    return int(digits) if digits else 0


def leaves(config: Mapping[str, ConfigValue], prefix: str = "") -> dict[str, str]:
    """Return the values of a config by dotted key, as text."""
    out: dict[str, str] = {}
    for key, value in config.items():
        inner = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(inner, Mapping) and inner and not _is_plain_list(value):
            out |= leaves({str(name): one for name, one in inner.items()}, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = repr(value)
    return out


def _is_plain_list(value: object) -> bool:
    return isinstance(value, list | tuple) and not any(isinstance(one, dict | list | tuple) for one in value)
