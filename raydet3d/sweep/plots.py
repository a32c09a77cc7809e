"""A sweep's pictures: values over time, settings side by side, what matters, and the best trials' learning rates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from raydet3d.sweep.importance import fits, importance, positions
from raydet3d.sweep.results import Results
from raydet3d.sweep.trial_store import DONE, FAILED, Trial
from raydet3d.sweep.trial_table import describe, short_names

GREY, RED = "#b0b0b0", "#c0392b"
NAMED = 6  # trials that a legend names


def draw(results: Results, folder: Path) -> list[tuple[str, Path]]:
    """Draw the pictures that the results allow.

    Args:
        results: The results.
        folder: Where to.

    Returns:
        Title and file of each.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for title, name, painter in (
        ("The metric over time", "curves", _curves),
        ("Settings and what they came to", "parallel", _parallel),
        ("How much each key explains", "importance", _importance),
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


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _colour(place: int, count: int) -> Any:
    """From the best trial's blue to the worst one's yellow."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](0.1 + 0.85 * place / max(count - 1, 1))


def _label(trial: Trial) -> str:
    text = describe(trial.setting)
    return f"{trial.id}  {text if len(text) < 60 else text[:57] + '...'}"


def _curves(results: Results) -> Any:
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


def _parallel(results: Results) -> Any:
    trials = [t for t in results.trials if t.state != FAILED and t.best(results.mode) is not None]
    known = {
        key: [t for t in trials if key in results.values[t.id] and fits(results.values[t.id][key], kind)]
        for key, kind in results.kinds.items()
    }
    keys = [key for key, some in known.items() if len(some) > 1]
    if len(trials) < 2 or not keys:
        return None
    figure, (axes,) = _figure(min(3 + 1.7 * len(keys), 14), 4.6)
    names = short_names(keys)
    spots: dict[str, dict[str, float]] = {}
    for column, key in enumerate(keys):
        places, ends = positions([results.values[t.id][key] for t in known[key]], results.kinds[key])
        spots[key] = dict(zip((t.id for t in known[key]), places, strict=True))
        axes.axvline(column, color="black", lw=0.8)
        for at, text in ends.items():
            axes.text(column - 0.03, at, text[:22], fontsize=7, ha="right", va="center")
    best = [float(t.best(results.mode) or 0.0) for t in trials]
    places, ends = positions(best, "linear")
    axes.axvline(len(keys), color="black", lw=1.6)
    for at, text in ends.items():
        axes.text(len(keys) + 0.04, at, text, fontsize=8, ha="left", va="center")
    for rank, (trial, height) in reversed(list(enumerate(zip(trials, places, strict=True)))):
        xs = [column for column, key in enumerate(keys) if trial.id in spots[key]]
        ys = [spots[keys[column]][trial.id] for column in xs]
        colour = _colour(rank, len(trials))
        axes.plot([*xs, len(keys)], [*ys, height], color=colour, lw=2.4 if rank == 0 else 1.1, marker="o", ms=3)
    axes.set_xticks(range(len(keys) + 1), [*names.values(), results.metric.rsplit("/", 1)[-1]], fontsize=8, rotation=12)
    axes.set_yticks([])
    axes.set_xlim(-0.5, len(keys) + 0.35)
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def _importance(results: Results) -> Any:
    shares = importance(results)
    if not shares:
        return None
    figure, (axes,) = _figure(7, 1.1 + 0.42 * len(shares))
    names = short_names(list(shares))
    keys = list(shares)[::-1]
    axes.barh([names[key] for key in keys], [100 * shares[key] for key in keys], color="#2c7fb8", height=0.6)
    for row, key in enumerate(keys):
        axes.text(100 * shares[key] + 1, row, f"{100 * shares[key]:.0f} %", va="center", fontsize=8)
    counted = sum(t.state != FAILED and t.best(results.mode) is not None for t in results.trials)
    axes.set_xlim(0, 112)
    axes.set_xlabel(
        f"share of the spread of {results.metric.rsplit('/', 1)[-1]} that the key explains alone ({counted} trials)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _schedules(results: Results) -> Any:
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


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """A trial's logged training scalars, as (iteration, value).

    Args:
        folder: The trial's folder.
    """
    out: dict[str, list[tuple[int, float]]] = {}
    try:
        lines = (folder / "scalars.json").read_text(encoding="utf-8").splitlines()
    except OSError:
        return out
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("mode") != "train":
            continue
        for key, value in entry.items():
            if isinstance(value, int | float) and math.isfinite(value):
                out.setdefault(key, []).append((int(entry["iter"]), float(value)))
    return out
