"""Plots of a sweep: scores over time, parallel coordinates of the settings, and the best trials' schedules."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from raydet3d.sweep.domains import Value
from raydet3d.sweep.results import Results
from raydet3d.sweep.sweep_console import describe, short_names
from raydet3d.sweep.trial_store import DONE, FAILED, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, RED = "#b0b0b0", "#c0392b"
NAMED = 6  # trials in the legend


def plot_results(results: Results, folder: Path) -> list[tuple[str, Path]]:
    """Write the plots that the results allow.

    Args:
        results: The results.
        folder: Folder for the PNG files.

    Returns:
        Title and path of each plot.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for title, name, painter in (
        ("The metric over time", "curves", _curves),
        ("Settings and scores", "parallel", _parallel),
        ("Learning rate and momentum of the best trials", "schedules", _schedules),
    ):
        figure = painter(results)
        path = folder / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        figure.savefig(path, dpi=110, bbox_inches="tight")
        out.append((title, path))
    return out


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _colour(place: int, count: int) -> tuple[float, float, float, float]:
    """Return a colour from blue (best trial) to yellow (worst trial)."""
    import matplotlib as mpl

    colour: tuple[float, float, float, float] = mpl.colormaps["viridis"](0.1 + 0.85 * place / max(count - 1, 1))
    return colour


def _label(trial: Trial) -> str:
    text = describe(trial.setting)
    return f"{trial.id}  {text if len(text) < 60 else text[:57] + '...'}"


def _curves(results: Results) -> Figure | None:
    trials = [trial for trial in results.trials if trial.reports]
    if not trials:
        return None
    figure, (axes,) = _figure(8.5, 4.6)
    for place, trial in reversed(list(enumerate(trials))):
        x, y = [r["at"] for r in trial.reports], [r["score"] for r in trial.reports]
        colour = GREY if trial.state == FAILED else _colour(place, len(trials))
        named = _label(trial) if place < NAMED else None
        axes.plot(x, y, color=colour, lw=2 if place == 0 else 1.2, marker=".", ms=4, label=named, zorder=3 - place / 99)
        end = {DONE: "o", FAILED: "x"}.get(trial.state, "|")
        axes.plot(x[-1:], y[-1:], color=RED if trial.state == FAILED else colour, marker=end, ms=8, lw=0)
        for exploit in trial.exploits:
            axes.axvline(exploit["at"], color=GREY, lw=0.5, ls=":")
    axes.set_xlabel(f"{results.counter}   (o done, | stopped, x failed{', dotted: a copy' if _is_pbt(trials) else ''})")
    axes.set_ylabel(results.metric.rsplit("/", 1)[-1])
    axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=7, loc="best", title="best trials", title_fontsize=7)
    return figure


def _is_pbt(trials: list[Trial]) -> bool:
    return any(trial.exploits for trial in trials)


def _parallel(results: Results) -> Figure | None:
    """Draw a line for each trial, through its value of each key to its best score."""
    best = {trial.id: trial.best(results.mode) for trial in results.trials if trial.state != FAILED}
    scores = {trial: score for trial, score in best.items() if score is not None}
    columns: dict[str, dict[str, Value]] = {}
    for key, kind in results.kinds.items():
        values = {trial: results.values[trial][key] for trial in scores if key in results.values[trial]}
        columns[key] = {trial: value for trial, value in values.items() if has_position(value, kind)}
    keys = [key for key, values in columns.items() if len(values) > 1]
    if len(scores) < 2 or not keys:
        return None
    figure, (axes,) = _figure(min(3 + 1.7 * len(keys), 14), 4.6)
    places: list[dict[str, float]] = []
    for column, key in enumerate([*keys, results.metric]):
        values = columns[key] if column < len(keys) else {**scores}
        found, labels = positions(list(values.values()), results.kinds[key] if column < len(keys) else "linear")
        places.append(dict(zip(values, found, strict=True)))
        axes.axvline(column, color="black", lw=0.8 if column < len(keys) else 1.6)
        for place, text in labels.items():
            axes.text(column - 0.03, place, text[:22], fontsize=7, ha="right", va="center")
    for rank, trial in reversed(list(enumerate(scores))):
        points = [(column, place[trial]) for column, place in enumerate(places) if trial in place]
        colour = _colour(rank, len(scores))
        axes.plot(*zip(*points, strict=True), color=colour, lw=2.4 if rank == 0 else 1.1, marker="o", ms=3)
    names = [*short_names(keys).values(), results.metric.rsplit("/", 1)[-1]]
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=12)
    axes.set_yticks([])
    axes.set_xlim(-0.5, len(keys) + 0.35)
    axes.spines[:].set_visible(False)
    return figure


def _schedules(results: Results) -> Figure | None:
    curves = [(trial, read_scalars(results.folder / "trials" / trial.id)) for trial in results.trials[:3]]
    shown = {key: [(t, s[key]) for t, s in curves if len(s.get(key, ())) > 1] for key in ("lr", "momentum")}
    shown = {key: some for key, some in shown.items() if some}
    if not shown:
        return None
    figure, all_axes = _figure(5.4 * len(shown), 3.6, len(shown))
    for axes, (key, some) in zip(all_axes, shown.items(), strict=True):
        for place, (trial, points) in enumerate(some):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, lw=1.6, color=_colour(place, 3), label=_label(trial))
        axes.set_xlabel("iteration")
        axes.set_ylabel(key)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=6)
    return figure


def positions(values: Sequence[Value], kind: str) -> tuple[list[float], Mapping[float, str]]:
    """Place a key's values on an axis from 0 to 1.

    Args:
        values: Values for which `has_position` holds.
        kind: Scale of the key: `log`, `linear` or `choice`.

    Returns:
        Position of each value, and the axis labels by position.
    """
    if kind == "choice":
        named = {str(value): value for value in values}
        numeric = {name: float(value) for name, value in named.items() if _is_finite(value)}
        order = [*sorted(numeric, key=numeric.__getitem__), *sorted(set(named) - set(numeric))]
        places = {name: i / (len(order) - 1) if len(order) > 1 else 0.5 for i, name in enumerate(order)}
        return [places[str(value)] for value in values], {place: name for name, place in places.items()}
    numbers = [value for value in values if _is_finite(value)]
    scaled = [math.log(number) if kind == "log" else float(number) for number in numbers]
    low, high = min(scaled), max(scaled)
    if low == high:
        return [0.5] * len(scaled), {0.5: f"{numbers[0]:.4g}"}
    ends = {0.0: f"{min(numbers):.4g}", 1.0: f"{max(numbers):.4g}"}
    return [(number - low) / (high - low) for number in scaled], ends


def has_position(value: Value, kind: str) -> bool:
    """Whether a value has a position on a key's axis: a baseline may set 0 on a log scale, or no number at all."""
    return kind == "choice" or (_is_finite(value) and (kind != "log" or value > 0))


def _is_finite(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read a trial's training scalars by name, as (iteration, value)."""
    out: dict[str, list[tuple[int, float]]] = {}
    try:
        lines = (folder / "scalars.json").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return out
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("mode") == "train" and _is_finite(entry.get("iter")):
            for key, value in entry.items():
                if _is_finite(value):
                    out.setdefault(key, []).append((int(entry["iter"]), float(value)))
    return out
