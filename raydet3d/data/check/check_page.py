"""The page of a data check: findings, counts, histograms, suggestions and pictures as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from raydet3d.data.check.findings import KINDS, Finding
from raydet3d.data.check.histogram import Histogram
from raydet3d.data.check.split_checks import CheckResult
from raydet3d.data.check.suggestions import Suggestions
from raydet3d.data.check.tally import Tally

_SHOWN = 25  # findings of a kind
_CLASS_CHARTS = {
    "length": "length [m]",
    "width": "width [m]",
    "height": "height [m]",
    "bottom": "z of the bottom [m]",
    "distance": "distance [m]",
    "points of a box": "points of a box",
}
_FRAME_CHARTS = {
    "points of a frame": "points of a frame",
    "objects of a frame": "objects of a frame",
    "x": "x of the points [m]",
    "y": "y of the points [m]",
    "z": "z of the points [m]",
    "voxels of a frame": "voxels of a frame",
    "points of a voxel": "points of a voxel",
}


@dataclass(frozen=True)
class Picture:
    """A picture of a frame.

    Args:
        image: The picture.
        sentences: What was found in the frame.
    """

    image: Image.Image
    sentences: Sequence[str]

    @property
    def data(self) -> str:
        """Return the picture as the text of a data URI."""
        file = io.BytesIO()
        self.image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(file, "PNG", optimize=True)
        return base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: place and size in its drawing, and a tooltip."""

    x: float
    y: float
    width: float
    height: float
    tip: str


@dataclass(frozen=True)
class Chart:
    """A histogram as bars.

    Args:
        title: What is measured.
        bars: The bars, in a drawing of 240 x 80.
        low: Least value.
        high: Greatest value.
        median: Median.
    """

    title: str
    bars: Sequence[Bar]
    low: str
    high: str
    median: str


def make_chart(title: str, histogram: Histogram) -> Chart:
    """Lay out a histogram, between its 0.1 % and 99.9 % quantiles."""
    ends = (histogram.quantile(0.001), histogram.quantile(0.999))
    inner = {n: c for n, c in histogram.bins.items() if ends[0] - histogram.step <= n * histogram.step <= ends[1]}
    bars = Histogram(histogram.step, inner or histogram.bins).bars(40)
    most = max((count for *_, count in bars), default=1)
    width = 240 / max(len(bars), 1)
    return Chart(
        title,
        [
            Bar(
                round(k * width, 2),
                round(78 * (1 - count / most), 2),
                round(max(width - 1, 0.8), 2),
                round(78 * count / most + (2 if count else 0), 2),
                f"{begin:g} to {end:g}: {count}",
            )
            for k, (begin, end, count) in enumerate(bars)
        ],
        f"{histogram.low:.4g}",
        f"{histogram.high:.4g}",
        f"{histogram.quantile(0.5):.4g}",
    )


def _charts(tally: Tally, titles: dict[str, str]) -> list[Chart]:
    return [make_chart(title, tally.histograms[name]) for name, title in titles.items() if tally.histograms.get(name)]


def page_style() -> str:
    """Return the page's own CSS, which follows the style of all pages."""
    return (Path(__file__).parent / "check_page.css").read_text(encoding="utf-8")


def page_body(source: str, result: CheckResult, suggestions: Suggestions, pictures: Sequence[Picture]) -> str:
    """Return the HTML of the page's body.

    Args:
        source: Config or folder that was checked.
        result: What was found.
        suggestions: What is suggested.
        pictures: Pictures of the worst frames.
    """
    trained = result.trained_tally()
    by_kind: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("check_page.html.j2").render(
        source=source,
        result=result,
        kinds=[(kind, KINDS[kind], result.totals[kind], by_kind[kind][:_SHOWN]) for kind in KINDS if kind in by_kind],
        classes=sorted({name for tally in result.splits.values() for name in tally.classes}),
        sides=("length", "width", "height"),
        suggestions=suggestions,
        pictures=pictures,
        frame_charts=_charts(trained, _FRAME_CHARTS),
        class_charts={name: _charts(one, _CLASS_CHARTS) for name, one in sorted(trained.classes.items())},
        trained=", ".join(result.trained) or "all splits",
    )
