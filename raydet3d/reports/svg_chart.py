"""Charts as inline SVG in the colours of the shared page style, so that they follow light and dark.

Long curves are thinned to the least and the greatest value of each column of pixels: no spike is lost, and a curve of a
million values takes some ten kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
SIZE, WIDE = (400, 220), (880, 320)
"""Width and height of charts, in pixels of the page where three stand side by side, and one does."""
NUM_COLORS = 8
STYLE = """
svg.chart { display: block; width: 100%; height: auto; font: 11px system-ui, "Noto Sans", sans-serif; }
.chart text { fill: var(--dim); paint-order: stroke; stroke: var(--panel); stroke-width: 3px; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .axis { stroke: var(--dim); stroke-width: 1; }
.chart .curve { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.chart .restart { stroke: var(--dim); stroke-dasharray: 3 3; }
.chart .bad { fill: var(--false); }
.chart .ideal { stroke: var(--dim); stroke-dasharray: 4 4; fill: none; }
.chart .c0 { stroke: var(--dim); opacity: 0.4; } .chart .f0 { fill: var(--dim); opacity: 0.4; }
.swatch.f0 { background: var(--dim); }
""" + "".join(
    f".chart .c{i} {{ stroke: var(--series-{i}); }} .chart .f{i} {{ fill: var(--series-{i}); }} "
    f".swatch.f{i} {{ background: var(--series-{i}); }}\n"
    for i in range(1, NUM_COLORS + 1)
)


@dataclass(frozen=True, eq=False)
class Series:
    """A curve.

    Args:
        name: For the legend.
        x: Ascending; (N,).
        y: (N,); NaN where a value is not known.
        color: 1 to 8, 0 for grey; by place by default.
        points: Whether each value has a dot.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    color: int | None = None
    points: bool = False


@dataclass(frozen=True)
class Mark:
    """Something that happened at a place on the x axis.

    Args:
        x: Where.
        text: What, for the tooltip.
        kind: `restart` (a dashed line) or `bad` (a triangle).
    """

    x: float
    text: str
    kind: str = "restart"


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Args:
        title: Its title.
        svg: The picture.
        legend: Colour and name of each series; empty where there is one.
        note: A sentence below it.
    """

    title: str
    svg: Markup
    legend: list[tuple[int, str]] = field(default_factory=list)
    note: str = ""


class Plot:
    """The area of a chart with its axes, to which curves and shapes are added.

    Args:
        x_range: Least and greatest x.
        y_range: Least and greatest y.
        log_y: Whether y is on a logarithmic scale; its range must be above 0 then.
        x_label: Below the x axis.
        size: Width and height of the picture.
        x_names: Labels at 0, 1, ... instead of numbers.
        with_grid: Whether y has labels and lines.
    """

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        *,
        log_y: bool = False,
        x_label: str = "",
        size: tuple[int, int] = SIZE,
        x_names: Sequence[str] = (),
        with_grid: bool = True,
    ) -> None:
        self.width, self.height = size
        self._log_y = log_y
        self._x = _widened(*x_range)
        low, high = y_range
        self._y = (math.log10(low), math.log10(high)) if log_y else (low, high)
        self._y = _widened(*self._y)
        self._parts: list[str] = []
        self._draw_axes(x_label, x_names, with_grid=with_grid)

    def at_x(self, x: ArrayLike) -> Floats:
        """Return pixels of x values."""
        low, high = self._x
        return LEFT + (np.asarray(x, float) - low) / (high - low) * (self.width - LEFT - RIGHT)

    def at_y(self, y: ArrayLike) -> Floats:
        """Return pixels of y values."""
        low, high = self._y
        values = np.asarray(y, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(values > 0, np.log10(values), np.nan) if self._log_y else values
        return self.height - BOTTOM - (values - low) / (high - low) * (self.height - TOP - BOTTOM)

    def add(self, shape: str) -> None:
        """Add an SVG element."""
        self._parts.append(shape)

    def add_text(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        """Add a text at a place in pixels."""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def add_curve(self, series: Series, color: int) -> None:
        """Add a curve, thinned; it goes on over values that are not known."""
        known = np.isfinite(self.at_y(series.y))
        x, y = np.asarray(series.x, float)[known], np.asarray(series.y, float)[known]
        x, y = thin(x, y, self.width - LEFT - RIGHT)
        px, py = self.at_x(x), self.at_y(y)
        if len(px) > 1:
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
            self.add(f'<polyline class="curve c{color}" points="{points}"/>')
        if series.points or len(px) == 1:
            for a, b, u, v in zip(px, py, x, y, strict=True):
                self._add_dot(a, b, color, f"{series.name}: {v:.5g} at {u:g}")

    def _add_dot(self, x: float, y: float, color: int, text: str) -> None:
        self.add(f'<circle class="f{color}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{escape(text)}</title></circle>')

    def add_bar(self, x: float, width: float, low: float, high: float, color: int, text: str) -> None:
        """Add a bar from `low` to `high`; `x` is its left end and `width` its width, in units of x."""
        left, right = self.at_x([x, x + width])
        top, bottom = self.at_y([high, low])
        self.add(
            f'<rect class="f{color}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{max(bottom - top, 0):.1f}"><title>{escape(text)}</title></rect>'
        )

    def add_mark(self, mark: Mark) -> None:
        """Add a mark; one outside the range of x is left out."""
        if not self._x[0] <= mark.x <= self._x[1]:
            return
        x, title = float(self.at_x(mark.x)), f"<title>{escape(mark.text)}</title>"
        if mark.kind == "bad":
            y = self.height - BOTTOM
            self.add(f'<path class="bad" d="M{x:.1f},{y - 8}l4,8h-8z">{title}</path>')
        else:
            self.add(
                f'<line class="restart" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{self.height - BOTTOM}">{title}</line>'
            )

    def svg(self, title: str) -> Markup:
        """Return the picture."""
        return Markup(
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(title)}">'
            f"{''.join(self._parts)}</svg>"
        )

    def add_column(self, x: float) -> None:
        """Add a vertical axis."""
        at = float(self.at_x(x))
        self.add(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{self.height - BOTTOM}"/>')

    def _draw_axes(self, x_label: str, x_names: Sequence[str], *, with_grid: bool) -> None:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        for value in ticks(*self._y, log=self._log_y) if with_grid else ():
            y = float(self.at_y(10**value if self._log_y else value))
            self.add(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.add_text(LEFT - 6, y + 4, _label(10**value if self._log_y else value), "end")
        if x_names:
            for place, name in enumerate(x_names):
                self.add_text(float(self.at_x(place)), bottom + 14, name)
        else:
            is_count = x_label in ("epoch", "iteration", "iter")
            for value in ticks(*self._x):
                if is_count and value != round(value):
                    continue
                x = float(self.at_x(value))
                self.add(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
                self.add_text(x, bottom + 15, _label(value))
        self.add(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        self.add_text((LEFT + right) / 2, self.height - 4, x_label)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "iteration",
    marks: Iterable[Mark] = (),
    log_y: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    size: tuple[int, int] = SIZE,
    note: str = "",
) -> Chart | None:
    """Draw curves; returns None where no value is known.

    Args:
        title: Title.
        series: The curves.
        x_label: Below the x axis.
        marks: What to mark.
        log_y: A logarithmic scale, where all values allow it.
        x_range: Least and greatest x; those of the values by default.
        y_range: Least and greatest y; those of the values by default.
        diagonal: Whether to draw the line of equal x and y.
        size: Width and height of the picture.
        note: A sentence below the chart.
    """
    xs = np.concatenate([np.asarray(one.x, float) for one in series]) if series else np.zeros(0)
    ys = np.concatenate([np.asarray(one.y, float) for one in series]) if series else np.zeros(0)
    known = np.isfinite(ys) & np.isfinite(xs)
    if not known.any():
        return None
    values = ys[known]
    log_y = log_y and bool((values > 0).all())
    low, high = y_range or (float(values.min()), float(values.max()))
    if y_range is None and not log_y:
        pad = 0.04 * (high - low)
        low, high = (0.0 if low >= 0 and low < 0.5 * high else low - pad), high + pad
    x_range = x_range or (float(xs[known].min()), float(xs[known].max()))
    plot = Plot(x_range, (low, high), log_y=log_y, x_label=x_label, size=size)
    if diagonal:
        (x0, x1), (y0, y1) = plot.at_x([low, high]), plot.at_y([low, high])
        plot.add(f'<line class="ideal" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>')
    for mark in marks:
        plot.add_mark(mark)
    legend = []
    for place, one in enumerate(series):
        color = one.color if one.color is not None else place % NUM_COLORS + 1
        plot.add_curve(one, color)
        legend.append((color, one.name))
    is_named = len(legend) > 1 or any(one.color for one in series)  # a colour of its own stands for something
    return Chart(title, plot.svg(title), legend if is_named else [], note)


def bar_chart(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None], Sequence[str]]],
    colors: Sequence[int] = (),
    *,
    x_label: str = "",
    y_range: tuple[float, float] | None = None,
    note: str = "",
) -> Chart | None:
    """Draw groups of bars; returns None where there are none.

    Args:
        title: Title.
        names: Name of each group.
        series: Name, a value for each group (None where there is none), and a tooltip for each.
        colors: Colour of each of the series; by place by default.
        x_label: Below the x axis.
        y_range: Least and greatest y; from 0 to the greatest value by default.
        note: A sentence below the chart.
    """
    values = [value for _, some, _ in series for value in some if value is not None]
    if not values or not names:
        return None
    plot = Plot((-0.5, len(names) - 0.5), y_range or (0, max(*values, 1e-9)), x_label=x_label, x_names=names)
    width = 0.8 / len(series)
    inks = colors or [number % NUM_COLORS + 1 for number in range(len(series))]
    for number, (_, some, tips) in enumerate(series):
        for place, (value, tip) in enumerate(zip(some, tips, strict=True)):
            if value is not None:
                plot.add_bar(place - 0.4 + number * width, width, 0, value, inks[number], tip)
    legend = [(ink, name) for ink, (name, *_) in zip(inks, series, strict=True)]
    return Chart(title, plot.svg(title), legend if len(legend) > 1 or colors else [], note)


def run_colors(names: Iterable[str]) -> dict[str, int | None]:
    """Return a colour for each of several runs, for all charts; None for a single run, which needs no legend."""
    found = list(names)
    return {name: place % NUM_COLORS + 1 if len(found) > 1 else None for place, name in enumerate(found)}


def thin(x: Floats, y: Floats, columns: int) -> tuple[Floats, Floats]:
    """Thin a curve to at most two values a column, the least and the greatest in their order, and its two ends.

    Args:
        x: (N,) ascending.
        y: (N,) finite.
        columns: Columns over the range of x.
    """
    if len(x) <= 2 * columns:
        return x, y
    column = np.minimum(((x - x[0]) / max(x[-1] - x[0], 1e-12) * columns).astype(np.int64), columns - 1)
    first = np.flatnonzero(np.r_[True, np.diff(column) > 0])
    number = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(x)]))
    keep = [0, len(x) - 1]
    for reduced in (np.minimum.reduceat(y, first), np.maximum.reduceat(y, first)):
        places = np.flatnonzero(y == reduced[number])
        keep.extend(places[np.r_[True, np.diff(number[places]) > 0]].tolist())
    kept = np.unique(keep)
    return x[kept], y[kept]


def ticks(low: float, high: float, count: int = 5, *, log: bool = False) -> list[float]:
    """Return round numbers between two ends; with `log`, exponents of 1, 2 and 5 times powers of ten if enough fit."""
    if log and high - low >= 2:
        step = math.ceil((high - low) / count)
        return [float(value) for value in range(math.ceil(low), math.floor(high) + 1, step)]
    powers = range(math.floor(low), math.floor(high) + 1) if log else ()
    steps = [exponent for power in powers for exponent in (power, power + math.log10(2), power + math.log10(5))]
    if len(inside := [exponent for exponent in steps if low <= exponent <= high]) > 2:
        return inside
    if log:
        return [math.log10(value) for value in ticks(10**low, 10**high, count) if value > 0]
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return the range, or a small one around it where it is empty."""
    return (low, high) if high > low else (low - max(abs(low), 1) * 0.05, high + max(abs(high), 1) * 0.05)


def _label(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:,.6g}" if abs(value) >= 1e4 else f"{value:.6g}"
