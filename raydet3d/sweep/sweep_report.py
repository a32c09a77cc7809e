"""`report.html`: a sweep on one page, with embedded pictures."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from raydet3d.sweep.plots import plot_results
from raydet3d.sweep.results import Results
from raydet3d.sweep.sweep_console import describe
from raydet3d.sweep.trial_store import DONE, FAILED, STOPPED

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; color: #222; padding: 0 1em }
table { border-collapse: collapse; font-size: 12.5px; margin: 1em 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .25em .6em; text-align: left; white-space: nowrap }
th { background: #f4f4f4; position: sticky; top: 0 }
tbody tr:first-child td { background: #eef7ee; font-weight: 600 }
img { max-width: 100%; margin: .5em 0 } pre { background: #f4f4f4; padding: .8em; overflow-x: auto }
"""


def write_report(results: Results) -> Path:
    """Plot the results and write the page; returns its path."""
    pictures = plot_results(results, results.folder / "pictures")
    count = {state: sum(trial.state == state for trial in results.trials) for state in (DONE, STOPPED, FAILED)}
    parts = [
        f"<h1>{html.escape(results.name)}</h1>",
        f"<p>{len(results.trials)} trials ({', '.join(f'{n} {state}' for state, n in count.items())}), "
        f"{results.mode} of <code>{html.escape(results.metric)}</code>, "
        f"{int(results.seconds) // 60} min {int(results.seconds) % 60} s, "
        f"{sum(trial.at for trial in results.trials):g} {results.counter}s trained</p>",
    ]
    best = results.best
    if best is not None:
        parts.append(
            f"<p>Best: trial <b>{best.id}</b>, {html.escape(results.metric.rsplit('/', 1)[-1])} "
            f"<b>{best.best(results.mode):.4f}</b>: {html.escape(describe(best.setting))}</p>"
            f"<pre>python -m raydet3d.train {html.escape(str(results.best_config))}</pre>"
        )
    for title, path in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
    parts.append(f"<h2>Trials</h2>{results.to_html()}")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(results.name)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path = results.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
