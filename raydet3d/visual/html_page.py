"""Frame of every HTML page that raydet3d writes: one file with the shared style, which loads nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TypeAlias

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None

# The browser itself refuses any access to a network, whatever the data of a page contain.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def read_asset(name: str) -> str:
    """Return a style, script or template of this package, such as `pages.css`."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def html_page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a self-contained page with the shared style (`pages.css`).

    Args:
        title: Title as plain text.
        body: HTML of the body.
        style: CSS after the shared style.
        script: JavaScript at the end of the body.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{html.escape(title)}</title>",
        f"<style>\n{read_asset('pages.css')}{style}</style></head>",
        f"<body>\n{body}",
        f"<script>\n{script}</script>" if script else "",
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def json_script(name: str, value: Json) -> str:
    """Return a `<script type="application/json">` element with data; `id` is its name.

    Args:
        name: Value of the `id` attribute.
        value: Data; texts in them cannot end the element.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{html.escape(name)}">{text}</script>'
