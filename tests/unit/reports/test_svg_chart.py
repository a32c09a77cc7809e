"""Charts: where values are drawn, that spikes survive thinning, and that texts are escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from raydet3d.reports.svg_chart import LEFT, RIGHT, TOP, Mark, Plot, Series, bar_chart, line_chart, thin, ticks

SVG = "{http://www.w3.org/2000/svg}"


def shapes(svg: str, kind: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    return root.findall(f".//{SVG}{kind}")


def test_a_curve_goes_through_its_values() -> None:
    chart = line_chart("a", [Series("s", [0, 10, 20], [0.0, 1.0, 0.5])], y_range=(0, 1))
    assert chart is not None
    (curve,) = shapes(chart.svg, "polyline")
    points = [tuple(map(float, pair.split(","))) for pair in curve.attrib["points"].split()]
    plot = Plot((0, 20), (0, 1))
    assert points[0] == (LEFT, pytest.approx(plot.height - 34, abs=0.1))
    assert points[1] == (pytest.approx((LEFT + plot.width - RIGHT) / 2, abs=0.1), TOP)
    assert points[2][0] == plot.width - RIGHT


def test_a_curve_continues_over_values_that_are_not_known() -> None:
    chart = line_chart("a", [Series("s", [0, 1, 2, 3], [1.0, np.nan, np.nan, 2.0])])
    assert chart is not None
    (curve,) = shapes(chart.svg, "polyline")
    assert len(curve.attrib["points"].split()) == 2


def test_charts_without_values_are_none() -> None:
    assert line_chart("a", []) is None
    assert line_chart("a", [Series("s", [0, 1], [np.nan, np.nan])]) is None
    assert bar_chart("a", [], []) is None


def test_thinning_keeps_ends_and_spikes() -> None:
    x = np.arange(1_000_000.0)
    y = np.sin(x / 1e5)
    y[123_456], y[777_777] = 50, -50
    a, b = thin(x, y, 500)
    assert len(a) <= 1002
    assert (a[0], a[-1]) == (0, 999_999)
    assert {123_456.0, 777_777.0} <= set(a)
    assert (np.diff(a) > 0).all()
    assert (b == y[a.astype(int)]).all()


def test_short_curves_are_not_thinned() -> None:
    x = np.arange(30.0)
    assert thin(x, x, 100)[0] is x


def test_marks_have_tooltips_and_those_outside_are_left_out() -> None:
    marks = [Mark(5, "restart <5>"), Mark(7, "bad step 7", "bad"), Mark(99, "outside")]
    chart = line_chart("a", [Series("s", [0, 10], [1, 2])], marks=marks)
    assert chart is not None
    titles = [title.text for title in shapes(chart.svg, "title")]
    assert titles == ["restart <5>", "bad step 7"]
    (line,) = [one for one in shapes(chart.svg, "line") if one.get("class") == "restart"]
    assert float(line.attrib["x1"]) == pytest.approx((LEFT + 400 - RIGHT) / 2, abs=0.1)


def test_a_logarithmic_scale_needs_values_above_zero() -> None:
    values = [1e-3, 1.0, 1e3]
    log = line_chart("a", [Series("s", [0, 1, 2], values)], log_y=True)
    linear = line_chart("a", [Series("s", [0, 1, 2], [0.0, 1.0, 1e3])], log_y=True)
    assert log is not None
    assert linear is not None
    middle = [
        float(one.attrib["points"].split()[1].split(",")[1])
        for one in (*shapes(log.svg, "polyline"), *shapes(linear.svg, "polyline"))
    ]
    assert middle[0] == pytest.approx((TOP + 220 - 34) / 2, abs=0.1)
    assert middle[1] > 180


def test_bars_stand_beside_each_other_with_their_tooltips() -> None:
    chart = bar_chart(
        "a", ["0-10", "10-20"], [("one", [10, 20], ["x", "y"]), ("two", [None, 5], ["", "z"])], y_range=(0, 100)
    )
    assert chart is not None
    rects = shapes(chart.svg, "rect")
    assert [rect.find(f"{SVG}title").text for rect in rects] == ["x", "y", "z"]  # type: ignore[union-attr]
    heights = [float(rect.attrib["height"]) for rect in rects]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert float(rects[1].attrib["x"]) + float(rects[1].attrib["width"]) <= float(rects[2].attrib["x"])
    assert [name for _, name in chart.legend] == ["one", "two"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (1e-7, 3e-7), (0, 123_456), (99.9, 100.1)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    assert len(set(np.diff(found).round(12))) <= 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.09, 1.4, [0.1, 0.2, 0.5, 1]), (0.85, 2.7, [1, 1.5, 2, 2.5]), (1e-4, 3, [1e-4, 1e-3, 0.01, 0.1, 1])],
)
def test_ticks_of_a_logarithmic_scale(low: float, high: float, expected: list[float]) -> None:
    assert [10**value for value in ticks(np.log10(low), np.log10(high), log=True)] == pytest.approx(expected)


def test_names_are_escaped() -> None:
    chart = line_chart("<b>", [Series("<i>&", [0, 1], [1, 2], points=True)], x_label="<u>")
    assert chart is not None
    assert not re.search(r"<[biu]>", chart.svg)
