"""The page of a report: sections of texts, tables and charts, rendered by a template into one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from jinja2 import Environment, PackageLoader, Template, select_autoescape
from markupsafe import Markup

from raydet3d.reports.svg_chart import STYLE, Chart
from raydet3d.visual.html_page import html_page

Cell: TypeAlias = str | float | int | None
SHORT = 26
"""Letters of a text up to which it is never wrapped: a time with its offset, a file of a checkpoint."""


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        head: Names of the columns.
        rows: Rows of cells; numbers are aligned right.
        title: Its title.
        shade: Shares from 0 to 1 that colour the cells of each row, where they are not None.
        note: A sentence below it.
        is_folded: Whether it is folded away under its title.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    shade: Sequence[Sequence[float | None]] = ()
    note: str = ""
    is_folded: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Charts:
    """Charts side by side, or below each other if they are wide; those without values are left out."""

    charts: Sequence[Chart | None]
    is_wide: bool = False
    kind: str = field(default="charts", init=False)


@dataclass(frozen=True)
class Text:
    """Paragraphs or list items.

    Args:
        lines: The texts.
        as_list: Whether they are items of a list.
    """

    lines: Sequence[str]
    as_list: bool = False
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Code:
    """Text of fixed width, folded away under its title where it has one."""

    text: str
    title: str = ""
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Pictures:
    """Pictures as data URIs with their names."""

    pictures: Sequence[tuple[str, str]]
    kind: str = field(default="pictures", init=False)


Block: TypeAlias = Table | Charts | Text | Code | Pictures


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        title: Its title.
        blocks: What it holds; a section without blocks is left out.
    """

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Name for links."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML.

    Args:
        title: Title of the page.
        subtitle: A line below it.
        sections: The sections, in order.
    """
    held = [Section(one.title, [block for block in one.blocks if _holds(block)]) for one in sections]
    shown = [section for section in held if section.blocks]
    body = _template().render(title=title, subtitle=subtitle, sections=shown)
    return html_page(title, body, style=STYLE + _style())


def _holds(block: Block) -> bool:
    match block:
        case Charts(charts=charts):
            return any(chart is not None for chart in charts)
        case Table(rows=content) | Text(lines=content) | Pictures(pictures=content) | Code(text=content):
            return bool(content)


@cache
def _environment() -> Environment:
    loader = PackageLoader("raydet3d.reports", "")
    environment = Environment(
        loader=loader, autoescape=select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = format_cell
    environment.tests["numeric"] = lambda value: isinstance(value, int | float)
    environment.tests["short"] = lambda value: isinstance(value, str) and len(value) <= SHORT
    return environment


def _template() -> Template:
    return _environment().get_template("report.html")


def _style() -> str:
    return str(Markup(_environment().get_template("report.css").render()))


def format_cell(value: Cell) -> str:
    """Return the text of a cell: numbers with five digits, nothing for None and NaN."""
    if value is None or value != value:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
