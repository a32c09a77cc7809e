"""The report of one run, or of several side by side: one HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from raydet3d.checkpoint.storage import read
from raydet3d.config import Config, find_config
from raydet3d.config.differences import Difference, find_differences, read_base
from raydet3d.errors import InputError
from raydet3d.reports.detection_sections import detection_sections
from raydet3d.reports.diagnosis import class_anchors, data_share, find
from raydet3d.reports.page import Cell, Charts, Code, Pictures, Section, Table, Text, format_cell, render_page
from raydet3d.reports.run_files import RunFiles, is_less_better, leaves
from raydet3d.reports.svg_chart import Chart, Floats, Mark, Series, line_chart, run_colors

DOTS, LONG = 60, 2000  # curves with fewer values have dots; those with more have a moving mean
LOSS_PARTS = 12  # losses drawn besides their sum
MANY_METRICS = 12  # up to so many metrics are all headline metrics
LONG_NAME = 40  # a longer name of a metric is cut to its last part in the summary
MANY_KEYS = 20  # of a longer table of differences, the rest is folded
NUM_PICTURES, PICTURE_WIDTH = 6, 900
OWN_FILE, BASE = "the config file", "the base config"
_SAME = ("work_dir", "resume", "launcher")  # keys that differ between any two runs


def render_runs(runs: Sequence[RunFiles]) -> str:
    """Return the page of a run; of several, a comparison of them, the first one first.

    Args:
        runs: The runs.
    """
    named = _names(runs)
    if len(runs) == 1:
        subtitle = str(runs[0].location)
        return render_page(f"Run {runs[0].name}", subtitle, run_sections(runs[0]))
    sections = [
        Section("Config keys that differ", _differing_keys(named)),
        Section("Summary", [_summary(named)]),
        Section("What stands out", [Text(_all_findings(named), as_list=True)]),
        Section("Scores", [Charts(_score_charts(named)), *_score_tables(named)]),
        Section("Training", [Charts(_curves_of_several(named))]),
        *_detections(named),
        Section("Hardware", [_machines(named)]),
    ]
    return render_page(f"Comparison of {len(runs)} runs", ", ".join(named), sections)


def run_sections(run: RunFiles) -> list[Section]:
    """Return the sections of the page of one run."""
    named = {run.name: run}
    differences, note = config_differences(run)
    return [
        Section("What stands out", [Text(find(run, differences, headline(run)), as_list=True)]),
        Section("Summary", [_summary(named)]),
        Section("Scores", [*_score_tables(named), Charts(_score_charts(named))]),
        Section("Training", [Charts(_curves_of_one(run)), _mark_note(run)]),
        *_detections(named),
        Section("Pictures", [Pictures(_pictures(run))]),
        Section("Config", [*_difference_tables(differences, note), Code(run.config_text, f"All of {run.config_name}")]),
        Section("Checkpoints", [_checkpoints(run)]),
        Section("Starts", [_starts(run)]),
        Section("Hardware and throughput", [_machines(named), Charts(_worker_charts(run))]),
    ]


def _detections(named: Mapping[str, RunFiles]) -> list[Section]:
    analyses = {name: run.analysis for name, run in named.items() if run.analysis is not None}
    anchors = {name: class_anchors(run) for name, run in named.items()}
    return detection_sections(analyses, anchors, run_colors(named))


def _names(runs: Sequence[RunFiles]) -> dict[str, RunFiles]:
    """Name each run by its folder, with parents where two have the same."""
    parts = [str(run.location).rstrip("/").split("/") for run in runs]
    count = 1
    while len({tuple(one[-count:]) for one in parts}) < len(parts) and count < max(map(len, parts)):
        count += 1
    names = ["/".join(one[-count:]) for one in parts]
    return {
        name if names.count(name) == 1 else f"{name} ({place + 1})": run
        for place, (name, run) in enumerate(zip(names, runs, strict=True))
    }


def _all_findings(named: Mapping[str, RunFiles]) -> list[str]:
    return [
        f"{name}: {sentence}"
        for name, run in named.items()
        for sentence in find(run, config_differences(run)[0], headline(run))
    ]


# ------------------------------------------------------------------------------------------------------------ config


def config_differences(run: RunFiles) -> tuple[dict[str, list[Difference]], str]:
    """Return the config's differences from its file, from what that inherits, and a sentence about where it was read.

    Differences from the file are those of the command line, if the file has not been changed since.
    """
    known = [start.get("config") for start in reversed(run.starts)]
    candidates = [Path(path) for path in known if path]
    with suppress(InputError):
        candidates.append(find_config(run.config_name))
    for path in candidates:
        if not path.is_file():
            continue
        try:
            now = Config(dict(run.config))
            own = Config.fromfile(path, import_custom_modules=False, require_env=False)
            found = {OWN_FILE: find_differences(own, now, ignored=_SAME)}
            base = read_base(path)
            if base is None:
                return found, f"{path} inherits from no other file."
        except InputError as error:
            return {}, f"The base config cannot be read: {error}"
        found[BASE] = find_differences(base, now, ignored=_SAME)
        return found, f"Compared with {path}, and with what it inherits, as they are now."
    return {}, "The config's file is not on this machine, so its base is not known."


def _difference_tables(differences: Mapping[str, Sequence[Difference]], note: str) -> list[Table | Text]:
    tables: list[Table | Text] = []
    for where, some in differences.items():
        rows = [[one.key, one.before, one.now] for one in some]
        is_folded = len(rows) > MANY_KEYS
        title = f"Differences from {where}" + (f": {len(rows)} keys" if is_folded else "")
        tables.append(Table(["key", where, "this run"], rows, title, is_folded=is_folded))
    return [*tables, Text([note])]


def _differing_keys(named: Mapping[str, RunFiles]) -> list[Table | Text]:
    values = {name: leaves({k: v for k, v in run.config.items() if k not in _SAME}) for name, run in named.items()}
    keys = dict.fromkeys(key for found in values.values() for key in found)
    differing = [key for key in keys if len({found.get(key) for found in values.values()}) > 1]
    rows = [[key, *(values[name].get(key, "absent") for name in named)] for key in differing]
    if not rows:
        return [Text(["The configs are equal."])]
    head, rest = ["key", *named], rows[MANY_KEYS:]
    return [Table(head, rows[:MANY_KEYS]), Table(head, rest, f"{len(rest)} further keys", is_folded=True)]


# ------------------------------------------------------------------------------------------------- summary, scores


def headline(run: RunFiles) -> list[str]:
    """Return the metrics that count: the best checkpoints', those that the config or the result name, or all of few."""
    names = [key for key in run.scalars.get("val", {}) if key not in ("iter", "step", "time", "data_time", "epoch")]
    best = [m.group.removeprefix("best_") for m in run.manifests if m.is_best]
    hooks = run.config.get("default_hooks") or {}
    parts = (hooks.get("logger") or {}).get("headline") or ()
    parts = [parts] if isinstance(parts, str) else list(parts)
    wanted = [*best, *(name for name in names if any(part in name for part in parts)), *run.result.get("headline", ())]
    chosen = [name for name in dict.fromkeys(wanted) if name in names]
    if chosen and len(chosen) <= MANY_METRICS:
        return chosen
    return (chosen or names)[:MANY_METRICS]


def best_value(run: RunFiles, name: str) -> tuple[float, float] | None:
    """Return a metric's best value, and the epoch (or iteration) that it was reached at."""
    val = run.scalars.get("val", {})
    values = val.get(name)
    if values is None:
        return None
    place = int(np.nanargmin(values) if is_less_better(name) else np.nanargmax(values))
    return float(values[place]), float(val["step"][place])


def _summary(named: Mapping[str, RunFiles]) -> Table:
    columns = [_facts(run) for run in named.values()]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    keys.sort(key=lambda key: not key.startswith(("state", "best ")))  # scores of any run before the rest
    rows = [[key, *(column.get(key) for column in columns)] for key in keys]
    # As text: a column of texts and numbers is read more easily with one alignment.
    held = [list(map(format_cell, row)) for row in rows if any(value not in (None, "") for value in row[1:])]
    return Table(["", *(named if len(named) > 1 else ["this run"])], held)


def _facts(run: RunFiles) -> dict[str, Cell]:
    train, last = run.scalars.get("train", {}), run.starts[-1] if run.starts else {}
    seconds = float(np.nanmean(train["time"])) if "time" in train else None
    batch = last.get("batch_size")
    share = data_share(run)
    seeds = [manifest.seed for manifest in run.manifests[-1:]]
    is_training = bool(run.starts or run.scalars or run.manifests)
    state = ("finished" if run.is_finished else "not finished") if is_training else "evaluated only"
    reached = [int(part["iter"][-1]) for part in (train, run.scalars.get("val", {})) if "iter" in part]
    found: dict[str, Cell] = {"state": state}
    for name in headline(run)[:3]:
        best = best_value(run, name)
        unit = "epoch" if _is_by_epoch([run]) else "iteration"
        title = name if len(name) <= LONG_NAME else name.rsplit("/", 1)[-1]
        found[f"best {title}"] = None if best is None else f"{best[0]:.5g} at {unit} {best[1]:g}"
    return found | {
        "iterations": max(reached, default=None),
        "epoch": int(train["epoch"][-1]) if "epoch" in train else None,
        "restarts": len(run.restarts) if is_training else None,
        "iterations done twice": sum(start.get("redone", 0) for start in run.starts) if is_training else None,
        "bad steps": len(run.bad_steps) if is_training else None,
        "workers": last.get("workers"),
        "samples per iteration": batch or None,
        "seconds per iteration": seconds,
        "samples per second": batch / seconds if batch and seconds else None,
        "waiting for data": None if share is None else f"{100 * share:.1f} % of the time",
        "peak memory": f"{int(np.nanmax(train['memory']))} MiB" if "memory" in train else None,
        "training time": _duration(run),
        "seed": next(iter(seeds), None) or (run.config.get("randomness") or {}).get("seed"),
        "config": run.config_name,
        "versions": ", ".join(f"{key} {value}" for key, value in (last.get("versions") or {}).items()),
    }


def _duration(run: RunFiles) -> str | None:
    """Return the time of the training steps, without validations and pauses."""
    train = run.scalars.get("train", {})
    if "time" not in train:
        return None
    steps = np.diff(train["iter"], prepend=0)
    seconds = int(np.nansum(steps * train["time"]))
    hours = f"{seconds // 3600} h " if seconds >= 3600 else ""
    return f"{hours}{seconds // 60 % 60} min {seconds % 60} s"


def _score_tables(named: Mapping[str, RunFiles]) -> list[Table]:
    """Return the table of the metrics that count, and a folded one of the others."""
    first = list(dict.fromkeys(name for run in named.values() for name in headline(run)))
    skipped = {"iter", "step", "time", "data_time", "epoch", *first}
    others = dict.fromkeys(key for run in named.values() for key in run.scalars.get("val", {}) if key not in skipped)
    single = len(named) == 1
    at = "at epoch" if _is_by_epoch(named.values()) else "at iteration"
    head = ["metric", *(["best", at, "last"] if single else named)]
    tables = []
    for title, names, is_folded in (("", first, False), ("All other metrics", list(others), True)):
        rows: list[list[Cell]] = []
        for name in names:
            row: list[Cell] = [name]
            for run in named.values():
                best = best_value(run, name)
                row.append(None if best is None else best[0])
                if single:
                    row += [None if best is None else best[1], float(run.scalars["val"][name][-1])]
            rows.append(row)
        tables.append(Table(head, rows, title, note="" if single else "Best values.", is_folded=is_folded))
    return tables


def _score_charts(named: Mapping[str, RunFiles]) -> list[Chart | None]:
    charts = []
    colors = run_colors(named)
    for name in list(dict.fromkeys(name for run in named.values() for name in headline(run)))[:MANY_METRICS]:
        series = [
            Series(title, val["step"], val[name], color=colors[title], points=len(val[name]) < DOTS)
            for title, run in named.items()
            if name in (val := run.scalars.get("val", {}))
        ]
        title = name.rsplit("/", 1)[-1]
        charts.append(line_chart(title, series, x_label="epoch" if _is_by_epoch(named.values()) else "iteration"))
    return charts


def _is_by_epoch(runs: Iterable[RunFiles]) -> bool:
    """Return whether the validations of all runs are counted in epochs."""
    found = [run.scalars["val"] for run in runs if "val" in run.scalars]
    return all((val["step"] < val["iter"]).any() for val in found)


# ---------------------------------------------------------------------------------------------------------- training


def marks(run: RunFiles) -> list[Mark]:
    """Return the restarts and the bad steps of a run."""
    found = [
        Mark(
            start["iteration"],
            f"restart at iteration {start['iteration']}: {start.get('why') or 'started again'}; "
            f"{start.get('redone', 0)} iterations done twice, {start.get('workers', '?')} workers",
        )
        for start in run.restarts
    ]
    return found + [Mark(step, f"bad step {step}: left out, not finite", "bad") for step in run.bad_steps[:500]]


def _mark_note(run: RunFiles) -> Text:
    if not run.restarts and not run.bad_steps:
        return Text([])
    return Text(["Dashed lines are restarts, triangles are steps that were left out (not finite); tooltips say why."])


def _curves_of_one(run: RunFiles) -> list[Chart | None]:
    train = run.scalars.get("train", {})
    if "iter" not in train:
        return []
    shown = marks(run)

    def chart(title: str, names: Sequence[str], *, log_y: bool = False) -> Chart | None:
        series = [Series(name, train["iter"], train[name]) for name in names if name in train]
        if log_y and len(series) == 1 and len(train["iter"]) > LONG:  # what is noisy
            window = len(train["iter"]) // 200
            x, y = moving_mean(train["iter"], train[names[0]], window)
            series = [replace(series[0], color=0), Series(f"mean of {window} values", x, y, color=1)]
        return line_chart(title, series, marks=shown, log_y=log_y)

    parts = [key for key in train if "loss" in key and key != "loss"]
    rates = [key for key in train if key.rpartition("/")[2].rpartition(".")[2] in ("lr", "base_lr")]
    momenta = [key for key in train if key.rpartition(".")[2] == "momentum"]
    return [
        chart("Loss", ["loss"], log_y=True),
        chart("Parts of the loss", parts[:LOSS_PARTS], log_y=True) if len(parts) > 1 else None,
        chart("Learning rate", rates),
        chart("Momentum", momenta),
        chart("Gradient norm", ["grad_norm"], log_y=True),
        chart("Seconds per iteration", ["time", "data_time"]),
        chart("Peak memory, MiB", ["memory"]),
    ]


def moving_mean(x: Floats, y: Floats, window: int) -> tuple[Floats, Floats]:
    """Return the mean of the last `window` known values at each place that has so many."""
    known = np.isfinite(y)
    sums = np.cumsum(np.r_[0.0, y[known]])
    return x[known][window - 1 :], (sums[window:] - sums[:-window]) / window


def _curves_of_several(named: Mapping[str, RunFiles]) -> list[Chart | None]:
    titles = {
        "loss": "Loss",
        "lr": "Learning rate",
        "momentum": "Momentum",
        "grad_norm": "Gradient norm",
        "time": "Seconds per iteration",
        "data_time": "Seconds waiting for data per iteration",
    }
    colors = run_colors(named)
    return [
        line_chart(
            title,
            [
                Series(name, train["iter"], train[key], color=colors[name])
                for name, run in named.items()
                if key in (train := run.scalars.get("train", {}))
            ],
            log_y=key in ("loss", "grad_norm"),
        )
        for key, title in titles.items()
    ]


# -------------------------------------------------------------------------------------------------------- the others


def _pictures(run: RunFiles) -> list[tuple[str, str]]:
    """Return the newest pictures as data URIs, smaller where they are large."""
    from PIL import Image

    found = []
    for name in run.pictures[-NUM_PICTURES:]:
        with suppress(OSError):
            picture = Image.open(io.BytesIO(read(run.storage, name))).convert("RGB")
            picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=82)
            data = base64.b64encode(file.getvalue()).decode()
            found.append((name.rpartition("/")[2], f"data:image/jpeg;base64,{data}"))
    return found


def _checkpoints(run: RunFiles) -> Table:
    rows: list[list[Cell]] = [
        [
            manifest.name,
            manifest.step,
            manifest.group,
            f"{manifest.size / 2**20:.3g} MiB",
            "yes" if manifest.resumable else "no",
            manifest.time.replace("T", " "),
        ]
        for manifest in run.manifests
    ]
    return Table(["file", "iteration", "group", "size", "can be resumed from", "written"], rows)


def _starts(run: RunFiles) -> Table:
    rows: list[list[Cell]] = [
        [
            str(start.get("time") or "").replace("T", " "),
            start["iteration"],
            start.get("redone"),
            start.get("workers"),
            start.get("why") or ("first start" if start.get("is_first") else "started again"),
        ]
        for start in run.starts
    ]
    return Table(["time", "from iteration", "iterations done twice", "workers", "why"], rows)


def _machines(named: Mapping[str, RunFiles]) -> Table:
    rows: list[list[Cell]] = []
    for name, run in named.items():
        machines = run.starts[-1].get("machines", []) if run.starts else []
        speed = run.scalars.get("workers", {})
        for rank, machine in enumerate(machines):
            rate, busy = (speed.get(f"workers/{rank}/{key}") for key in ("samples_per_s", "busy_percent"))
            rows.append(
                [
                    *([name] if len(named) > 1 else []),
                    rank,
                    machine.get("host"),
                    machine.get("device"),
                    machine.get("cpu"),
                    machine.get("processors"),
                    f"{machine['memory'] / 2**30:.1f} GiB" if "memory" in machine else None,
                    None if rate is None else round(float(np.nanmean(rate)), 2),
                    None if busy is None else round(float(np.nanmean(busy)), 1),
                ]
            )
    head = ["rank", "host", "device", "CPU", "processors", "memory", "samples/s", "busy, %"]
    return Table(
        [*(["run"] if len(named) > 1 else []), *head],
        rows,
        note="Of the last start; busy is the share of a worker's time up to the end of the forward pass, before it "
        "waits for the others.",
    )


def _worker_charts(run: RunFiles) -> list[Chart | None]:
    workers = run.scalars.get("workers", {})
    ranks = sorted({int(key.split("/")[1]) for key in workers if key.count("/") == 2})
    return [
        line_chart(
            title,
            [
                Series(
                    f"rank {rank}",
                    workers["iter"],
                    workers[f"workers/{rank}/{key}"],
                    points=len(workers["iter"]) < DOTS,
                )
                for rank in ranks[:8]
                if f"workers/{rank}/{key}" in workers
            ],
            note=f"The first 8 of {len(ranks)} workers." if len(ranks) > 8 else "",
        )
        for key, title in (
            ("samples_per_s", "Samples per second by worker"),
            ("busy_percent", "Busy share by worker, %"),
        )
    ]
