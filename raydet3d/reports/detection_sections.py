"""Sections of the page on detections, from the analyses of one or several runs (`raydet3d.metrics.analysis`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from raydet3d.metrics.analysis import (
    OFFSETS_M,
    SCORE_BINS,
    TOLERANCES_M,
    Analysis,
    BoxError,
    Group,
    calibration,
    calibration_error,
)
from raydet3d.reports.page import Cell, Charts, Section, Table, Text
from raydet3d.reports.svg_chart import Chart, Mark, Plot, Series, bar_chart, line_chart

Colors: TypeAlias = Mapping[str, int | None]

HOW = (
    "Precision-recall curves, AP by distance and points, confusion and calibration come with each validation by "
    "KittiMetric, NuScenesMetric, Box3DAPMetric or CenterDistanceAPMetric (analysis.json); for a run without: "
    "python -m raydet3d.evaluate CONFIG CHECKPOINT --work-dir WORK_DIR, or, of predictions that "
    "--save-predictions FILE has kept, python -m raydet3d.evaluate CONFIG --predictions FILE --work-dir WORK_DIR."
)

CONFUSION = Text(
    [
        "Objects by the class of the nearest detection, up to 2 m away; the least score is that where detections of "
        "any class find objects of any class best (F1). The last row counts detections that are near no object."
    ]
)

TOLERANCE = Text(
    [
        "AP if a detection is true up to this distance between its centre and an object's, whatever their overlap is. "
        "Low on the left and high on the right: objects are found, at wrong places. Any class far above the classes: "
        "objects are found, under wrong names."
    ]
)
Sizes = Mapping[str, Sequence[float]]
"""Length, width and height by class, metres."""


def detection_sections(analyses: Mapping[str, Analysis], anchors: Mapping[str, Sizes], colors: Colors) -> list[Section]:
    """Return the sections.

    Args:
        analyses: The analyses by the names of their runs.
        anchors: Sizes of the anchors of each class, for runs whose heads have them.
        colors: Colours of all runs of the page (`run_colors`), of those without an analysis too.
    """
    if not analyses:
        return [Section("Detections", [Text([HOW])])]
    where = [
        f"{name}: {one['title']}; {one['frames']} frames, {_origin(one)}; {one['score_name']}: {one['score']:.4g}."
        for name, one in analyses.items()
    ]
    return [
        Section("Precision and recall", [Text(where), Charts(_pr_charts(analyses, colors))]),
        Section(
            "AP by distance and number of points",
            [
                Charts(_group_charts(analyses, "distance", "distance from the sensor, metres", colors)),
                Charts(_group_charts(analyses, "points", "points on the object", colors)),
                Text(
                    [
                        "AP is the mean over 40 recalls of the greatest precision at that recall or above. By "
                        "distance, a false detection counts in the group of its own distance; by points, in each group "
                        "by the group's share of the objects. Numbers of objects are in the tooltips and the table."
                    ]
                ),
                Table(
                    ["run", "class", "group", "objects", "AP"],
                    [
                        [name, group["category"], f"{_group_name(group, key)} {unit}", group["objects"], group["ap"]]
                        for name, one in analyses.items()
                        for key, unit in (("distance", "m"), ("points", "points"))
                        for group in one[key]  # type: ignore[literal-required]
                    ],
                    title="All groups",
                    is_folded=True,
                ),
            ],
        ),
        Section(
            "Confusion with the nearest class", [*(_confusion_table(*pair) for pair in analyses.items()), CONFUSION]
        ),
        Section(
            "Places and sizes of the boxes",
            [
                Charts(_tolerance_charts(analyses, colors)),
                TOLERANCE,
                Charts(_offset_charts(analyses, colors)),
                _error_table(analyses),
                _size_table(analyses, anchors),
            ],
        ),
        Section(
            "Scores and calibration",
            [Charts(_calibration_charts(analyses, colors)), Charts(_score_charts(analyses, colors))],
        ),
    ]


def _origin(analysis: Analysis) -> str:
    """Return what was evaluated."""
    if "iter" in analysis:
        return f"validation after iteration {analysis['iter']}"
    return f"evaluation of {analysis.get('source') or 'a model'}"


def _pr_charts(analyses: Mapping[str, Analysis], colors: Colors) -> list[Chart | None]:
    charts = []
    for category in _categories(analyses):
        series = []
        for name, one in analyses.items():
            curves = [curve for curve in one["curves"] if curve["category"] == category]
            if len(colors) > 1:  # one level each: KITTI's moderate, nuScenes' 2 m
                usual = [curve for curve in curves if curve["level"] in ("moderate", "2 m")]
                curves = (usual or curves)[:1]
            for curve in curves:
                label = f"{f'{name}: ' if len(colors) > 1 else ''}{curve['level']}, AP {curve['ap']:.2f}"
                series.append(Series(label, curve["recall"], curve["precision"], color=colors[name]))
        charts.append(line_chart(category, series, x_label="recall", x_range=(0, 1), y_range=(0, 1)))
    return charts


def _categories(analyses: Mapping[str, Analysis]) -> list[str]:
    return list(dict.fromkeys(curve["category"] for one in analyses.values() for curve in one["curves"]))


def _group_name(group: Group, key: str) -> str:
    """Return the range of a group as text; of points, the least and the greatest number."""
    low, high = group["low"], group["high"]
    if high is None:
        return f"{low:g}+"
    return f"{low:g}-{high - 1 if key == 'points' else high:g}"


def _group_charts(
    analyses: Mapping[str, Analysis], key: Literal["distance", "points"], label: str, colors: Colors
) -> list[Chart | None]:
    charts = []
    for category in _categories(analyses):
        given = {name: [g for g in one[key] if g["category"] == category] for name, one in analyses.items()}
        own = {name: groups for name, groups in given.items() if groups}
        lows = sorted({group["low"] for groups in own.values() for group in groups})
        names = {g["low"]: _group_name(g, key) for groups in own.values() for g in groups}
        series = []
        for name, groups in own.items():
            found = {group["low"]: group for group in groups}
            tips = [
                f"{name}: AP {found[low]['ap']:.2f} of {found[low]['objects']} objects" if low in found else ""
                for low in lows
            ]
            series.append((name, [found[low]["ap"] if low in found else None for low in lows], tips))
        title = f"{category}: AP by {key}"
        inks = [color for name in own if (color := colors[name]) is not None]
        charts.append(bar_chart(title, [names[low] for low in lows], series, inks, x_label=label, y_range=(0, 100)))
    return charts


def _confusion_table(name: str, analysis: Analysis) -> Table:
    found = analysis["confusion"]
    classes = found["classes"]
    rows: list[list[Cell]] = []
    shade: list[list[float | None]] = []
    for title, counts in zip([*classes, "background"], found["counts"], strict=True):
        total = max(sum(counts), 1)
        if title != "background" and not sum(counts):
            continue
        rows.append([title, *counts])
        shade.append([None, *(count / total if title != "background" else None for count in counts)])
    return Table(
        ["object", *(f"found as {one}" for one in classes), "missed"],
        rows,
        title=f"{name}, score of at least {found['threshold']:.2f}",
        shade=shade,
    )


def _tolerance_charts(analyses: Mapping[str, Analysis], colors: Colors) -> list[Chart | None]:
    """Draw the classes of one run beside each other; of several runs, a chart for each class."""
    values = {(run, one["category"]): one["ap"] for run, found in analyses.items() for one in found["tolerance"]}
    groups: dict[str, list[tuple[str, list[float]]]] = {}
    for (run, category), ap in values.items():
        title, name = (category, run) if len(colors) > 1 else ("All classes", category)
        groups.setdefault(f"{title}: AP by distance between centres", []).append((name, ap))
    names = [f"{limit:g}" for limit in TOLERANCES_M]
    return [
        bar_chart(
            title,
            names,
            [
                (name, ap, [f"{name}, up to {at} m: AP {v:.2f}" for at, v in zip(names, ap, strict=True)])
                for name, ap in some
            ],
            [color for name, _ in some if (color := colors.get(name)) is not None],
            x_label="distance up to which a detection is true, metres",
            y_range=(0, 100),
        )
        for title, some in groups.items()
    ]


def _offset_charts(analyses: Mapping[str, Analysis], colors: Colors) -> list[Chart | None]:
    """Draw offsets by axis: of one run, of each class; of several, of all classes together."""
    single = len(colors) == 1
    parts: dict[str, list[BoxError]] = {}
    for run, one in analyses.items():
        for error in one["errors"]:
            parts.setdefault(error["category"] if single else run, []).append(error)
    middle = (OFFSETS_M[:-1] + OFFSETS_M[1:]) / 2
    charts = []
    for axis, title in enumerate(("forward", "left", "up")):
        series = []
        for name, errors in parts.items():
            counts = np.sum([error["offsets"][axis] for error in errors], 0)
            series.append(Series(name, middle, 100 * counts / max(counts.sum(), 1), color=colors.get(name)))
        charts.append(
            line_chart(
                f"Offset of the boxes {title}, % of the pairs",
                series,
                x_label=f"metres further {title} than the object",
                marks=[Mark(0, "no offset")],
            )
        )
    return charts


def _size_table(analyses: Mapping[str, Analysis], anchors: Mapping[str, Sizes]) -> Table:
    rows: list[list[Cell]] = [
        [
            *(run, one["category"], one["objects"], format_size(one["size"])),
            *(one["detections"], format_size(one["detected"])),
            format_size(anchors.get(run, {}).get(one["category"], ())),
        ]
        for run, found in analyses.items()
        for one in found["sizes"]
    ]
    head = ["run", "class", "objects", "their size, m", "detections", "their size, m", "anchors, m"]
    return Table(
        head,
        rows,
        title="Sizes by class",
        note="Medians of length x width x height by class name, whether a detection is true or not. Rows whose sizes "
        "differ, and which would fit another row, have classes that are numbered in two ways.",
    )


def format_size(size: Sequence[float]) -> str:
    """Return length, width and height as text."""
    return " x ".join(f"{side:.2f}" for side in size)


def _error_table(analyses: Mapping[str, Analysis]) -> Table:
    rows: list[list[Cell]] = [
        [
            *(name, error["category"], error["matches"], error["forward"], error["left"], error["up"], error["spread"]),
            *(error["own"], *(error["size"] or (None,) * 3), error["yaw"]),
        ]
        for name, one in analyses.items()
        for error in one["errors"]
    ]
    head = ["run", "class", "nearest pairs", "forward, m", "left, m", "up, m", "spread, m"]
    return Table(
        [*head, "of its class", "length", "width", "height", "yaw, degrees"],
        rows,
        note="Medians of nearest detection minus object. Offsets are of all nearest pairs, whatever class was "
        "detected; spread is half of their interquartile range, seen from above. Sizes (ratios) and yaw (absolute "
        "difference) are of the pairs in which the detection has the object's class.",
    )


def _calibration_charts(analyses: Mapping[str, Analysis], colors: Colors) -> list[Chart | None]:
    charts = []
    for category in dict.fromkeys(bins["category"] for one in analyses.values() for bins in one["scores"]):
        series = []
        for name, one in analyses.items():
            for bins in one["scores"]:
                parts = calibration(bins) if bins["category"] == category else []
                if parts:
                    scores, shares, _ = zip(*parts, strict=True)
                    owner = f"{name}, " if len(colors) > 1 else ""
                    label = f"{owner}calibration error {calibration_error(bins):.3f}"
                    series.append(Series(label, scores, shares, color=colors[name], points=True))
        note = series[0].name if len(colors) == 1 and series else ""
        charts.append(
            line_chart(
                f"{category}: precision by score",
                series,
                x_label="score",
                x_range=(0, 1),
                y_range=(0, 1),
                diagonal=True,
                note=note,
            )
        )
    return charts


def _score_charts(analyses: Mapping[str, Analysis], colors: Colors) -> list[Chart | None]:
    """Draw true and false detections by score, stacked, for each run and class."""
    charts: list[Chart | None] = []
    for name, one in analyses.items():
        for bins in one["scores"]:
            highest = max(map(sum, zip(bins["true"], bins["false"], strict=True)))
            if highest:
                title = f"{bins['category']}: detections by score" + (f" ({name})" if len(colors) > 1 else "")
                charts.append(_stacked(title, bins["true"], bins["false"], highest))
    return charts


def _stacked(title: str, true: Sequence[int], false: Sequence[int], highest: int) -> Chart:
    plot = Plot((0, 1), (0, highest), x_label="score")
    colors = (3, 2)  # those of true and false detections in pictures of scenes
    for number, (hits, misses) in enumerate(zip(true, false, strict=True)):
        low = number / SCORE_BINS
        tip = f"{low:.2f} to {low + 1 / SCORE_BINS:.2f}: {hits} true, {misses} false"
        plot.add_bar(low, 1 / SCORE_BINS, 0, hits, colors[0], tip)
        plot.add_bar(low, 1 / SCORE_BINS, hits, hits + misses, colors[1], tip)
    return Chart(title, plot.svg(title), [(colors[0], "true"), (colors[1], "false")])
