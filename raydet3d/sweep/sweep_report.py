"""``report.html``: a sweep on one page that needs no network; its pictures are inside of it."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from raydet3d.sweep.importance import importance
from raydet3d.sweep.plots import draw
from raydet3d.sweep.results import Results, cell
from raydet3d.sweep.trial_store import DONE, FAILED, STOPPED
from raydet3d.sweep.trial_table import describe

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; color: #222; padding: 0 1em }
table { border-collapse: collapse; font-size: 12.5px; margin: 1em 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .25em .6em; text-align: left; white-space: nowrap }
th { background: #f4f4f4; position: sticky; top: 0 }
tr.first td { background: #eef7ee; font-weight: 600 } tr.failed td { color: #a33 }
img { max-width: 100%; margin: .5em 0 } pre { background: #f4f4f4; padding: .8em; overflow-x: auto }
"""


def write_report(results: Results) -> Path:
    """Draw a sweep's pictures and write its page.

    Args:
        results: The results.

    Returns:
        The page.
    """
    pictures = draw(results, results.folder / "pictures")
    count = {state: sum(trial.state == state for trial in results.trials) for state in (DONE, STOPPED, FAILED)}
    parts = [
        f"<h1>{_text(results.name)}</h1>",
        f"<p>{len(results.trials)} trials ({', '.join(f'{n} {state}' for state, n in count.items())}), "
        f"{results.mode} of <code>{_text(results.metric)}</code>, "
        f"{int(results.seconds) // 60} min {int(results.seconds) % 60} s, "
        f"{sum(trial.at for trial in results.trials):g} {results.counter}s trained</p>",
    ]
    best = results.best
    if best is not None:
        parts.append(
            f"<p>Best: trial <b>{best.id}</b>, {_text(results.metric.rsplit('/', 1)[-1])} "
            f"<b>{best.best(results.mode):.4f}</b>: {_text(describe(best.setting))}</p>"
            f"<pre>python -m raydet3d.train {_text(str(results.best_config))}</pre>"
        )
    for title, path in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
    if importance(results):
        parts.append(
            "<p>The share is that of a parabola (choices: of group means) through each trial's best value, corrected "
            "for its number of terms. Trials that were stopped early count with what they had reached.</p>"
        )
    parts.append(f"<h2>Trials</h2>{_table(results)}")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(results.name)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path = results.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _table(results: Results) -> str:
    rows = results.rows()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{_text(key.rsplit('/', 1)[-1])}</th>" for key in keys)
    body = []
    for row in rows:
        kind = "failed" if row["state"] == FAILED else "first" if row["rank"] == 1 else ""
        cells = "".join(f"<td>{_text(cell(row.get(key)))}</td>" for key in keys)
        body.append(f'<tr class="{kind}">{cells}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _text(value: str) -> str:
    return html.escape(value)
