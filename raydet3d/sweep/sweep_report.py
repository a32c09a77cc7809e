"""`report.html` of a sweep: the page of a report with the sections of a sweep."""

from __future__ import annotations

from pathlib import Path

from raydet3d.reports.page import Charts, Code, Section, Table, Text, render_page
from raydet3d.reports.run_files import SCALARS, Columns, read_scalars
from raydet3d.reports.svg_chart import NUM_COLORS, WIDE, Chart, Mark, Plot, Series, line_chart
from raydet3d.sweep.domains import Value
from raydet3d.sweep.results import TIED_HINT, Results
from raydet3d.sweep.sweep_console import describe, short_names
from raydet3d.sweep.trial_store import DONE, FAILED, STOPPED, Trial
from raydet3d.sweep.value_axis import has_position, positions

NAMED = NUM_COLORS - 1  # trials with a colour and a place in the legend
SCHEDULES = 3  # best trials whose schedules are drawn


def write_report(results: Results, out: Path | None = None) -> Path:
    """Write the page.

    Args:
        results: The results.
        out: The page; `report.html` in the sweep's folder by default.

    Returns:
        Its path.
    """
    path = out or results.folder / "report.html"
    path.write_text(render_page(results.name, _subtitle(results), sweep_sections(results)), encoding="utf-8")
    return path


def sweep_sections(results: Results) -> list[Section]:
    """Return the sections of a sweep."""
    return [
        Section("Best trial", _best(results)),
        Section("Scores and settings", [Charts([_scores(results), _parallel(results)], is_wide=True)]),
        Section("Learning rate, momentum and loss of the best trials", [Charts(_training(results))]),
        Section("Trials", [_table(results)]),
    ]


def _subtitle(results: Results) -> str:
    count = {state: sum(trial.state == state for trial in results.trials) for state in (DONE, STOPPED, FAILED)}
    return (
        f"{len(results.trials)} trials ({', '.join(f'{n} {state}' for state, n in count.items())}), {results.mode} of "
        f"{results.metric}, {int(results.seconds) // 60} min {int(results.seconds) % 60} s, "
        f"{sum(trial.at for trial in results.trials):g} {results.counter}s trained"
    )


def _best(results: Results) -> list[Text | Code]:
    best = results.best
    if best is None:
        return [Text(["No trial has a score."])]
    name = results.metric.rsplit("/", 1)[-1]
    line = f"Trial {best.id}, {name} {best.best(results.mode):.4f}: {describe(best.setting)}"
    more = f"All about it: python -m raydet3d.report {results.folder / 'trials' / best.id}"
    if results.is_tied:
        line += f". All scores are equal, so it is no better than the others: {TIED_HINT}."
    return [Text([line]), Code(f"python -m raydet3d.train {results.best_config}"), Text([more])]


def _label(trial: Trial) -> str:
    text = describe(trial.setting)
    return f"{trial.id}  {text if len(text) < 60 else text[:57] + '...'}"


def _scores(results: Results) -> Chart | None:
    series, marks = [], []
    for place, trial in reversed(list(enumerate(trial for trial in results.trials if trial.reports))):
        x, y = [r["at"] for r in trial.reports], [r["score"] for r in trial.reports]
        name = _label(trial) if place < NAMED else ""
        series.append(Series(name, x, y, color=place + 1 if place < NAMED else 0, points=True))
        marks += [
            Mark(one["at"], f"trial {trial.id} goes on from trial {one['donor']}'s checkpoint")
            for one in trial.exploits
        ]
    chart = line_chart(results.metric, series, x_label=results.counter, marks=marks, size=WIDE)
    if chart is None:
        return None
    legend = [(color, name) for color, name in reversed(chart.legend) if name]
    note = f"The best {NAMED} trials have colours, the others are grey." if len(series) > NAMED else ""
    return Chart(chart.title, chart.svg, legend, note)


def _table(results: Results) -> Table:
    rows = results.rows()
    head = list(dict.fromkeys(key for row in rows for key in row if key != "digest"))
    names = short_names([key for key in head if key in results.kinds])
    cells = [[_cell(row.get(key)) for key in head] for row in rows]
    return Table([names.get(key, key.rsplit("/", 1)[-1]) for key in head], cells)


def _cell(value: object) -> str | float | int | None:
    return value if isinstance(value, str | float | int) or value is None else str(value)


def _parallel(results: Results) -> Chart | None:
    """Draw a line for each trial, through its value of each key to its best score."""
    best = {trial.id: trial.best(results.mode) for trial in results.trials if trial.state != FAILED}
    scores = {trial: score for trial, score in best.items() if score is not None}
    columns: dict[str, dict[str, Value]] = {}
    for key, kind in results.kinds.items():
        values = {trial: results.values[trial][key] for trial in scores if key in results.values[trial]}
        columns[key] = {trial: value for trial, value in values.items() if has_position(value, kind)}
    columns = {key: values for key, values in columns.items() if len(values) > 1}
    if len(scores) < 2 or not columns:
        return None
    names = [*short_names(list(columns)).values(), results.metric.rsplit("/", 1)[-1]]
    plot = Plot((-0.4, len(names) - 0.6), (0, 1), size=WIDE, x_names=names, with_grid=False)
    places: list[dict[str, float]] = []
    texts: list[tuple[int, float, str]] = []
    axes: list[tuple[str, dict[str, Value]]] = [*columns.items(), (results.metric, {**scores})]
    for column, (key, own) in enumerate(axes):
        kind = results.kinds[key] if column < len(columns) else "linear"
        found, labels = positions(list(own.values()), kind)
        places.append(dict(zip(own, found, strict=True)))
        plot.add_column(column)
        texts += [(column, place * 0.94 + 0.03, text[:18]) for place, text in labels.items()]
    for rank, number in reversed(list(enumerate(scores))):
        points = [(column, place[number] * 0.94 + 0.03) for column, place in enumerate(places) if number in place]
        x, y = zip(*points, strict=True)
        plot.add_curve(Series(f"trial {number}", x, y, points=True), rank + 1 if rank < NAMED else 0)
    for column, height, text in texts:  # above the lines
        is_last = column == len(columns)
        side, anchor = (6, "start") if is_last else (-6, "end")
        plot.add_text(float(plot.at_x(column)) + side, float(plot.at_y(height)) + 4, text, anchor)
    legends = {trial.id: _label(trial) for trial in results.trials}
    legend = [(rank + 1, legends[number]) for rank, number in enumerate(scores) if rank < NAMED]
    return Chart(
        "Settings and scores", plot.svg("Settings and scores"), legend, "A line is a trial; greater is higher."
    )


def _training(results: Results) -> list[Chart | None]:
    trials = [(trial, _train_scalars(results.folder / "trials" / trial.id)) for trial in results.trials[:SCHEDULES]]
    return [
        line_chart(
            title,
            [Series(_label(trial), found["iter"], found[key]) for trial, found in trials if key in found],
            log_y=key == "loss",
        )
        for key, title in (("lr", "Learning rate"), ("momentum", "Momentum"), ("loss", "Loss"))
    ]


def _train_scalars(folder: Path) -> Columns:
    path = folder / SCALARS
    scalars, _ = read_scalars(path.read_bytes() if path.is_file() else b"")
    return scalars.get("train", {})
