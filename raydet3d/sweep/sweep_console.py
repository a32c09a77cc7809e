"""Console output of a running sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TextIO

from raydet3d.progress_bar import LiveLine
from raydet3d.sweep.domains import Value
from raydet3d.sweep.trial_store import DONE, FAILED, RUNNING, STOPPED, Trial

PERIOD_S = 1.0
ROWS = 12
ENDED = (DONE, STOPPED, FAILED)


class SweepConsole:
    """Shows the state of a sweep; its methods take the trials best first.

    Args:
        metric: The metric; its last part is shown.
        mode: `max` or `min`.
        counter: Unit of training length: `epoch` or `iter`.
        stream: Output; standard output by default.
    """

    def __init__(self, *, metric: str, mode: str, counter: str, stream: TextIO | None = None) -> None:
        self.metric = metric.rsplit("/", 1)[-1]
        self.mode = mode
        self.counter = counter
        self._table = LiveLine(stream, PERIOD_S)

    def print(self, text: str) -> None:
        """Print a line above the live table."""
        self._table.clear()
        self._table.stream.write(f"{text}\n")
        self._table.stream.flush()

    def event(self, trial: Trial, trials: Sequence[Trial], *, total: int | None, left_s: float | None) -> None:
        """Print a trial's new state; on a terminal only a final one, since the table shows the rest."""
        best = trial.best(self.mode)
        at = f"{self.counter} {trial.at:g}/{trial.length:g}"
        if trial.state == RUNNING and self._table.is_terminal:
            return
        if trial.state == RUNNING:
            score = f"{self.metric} {trial.reports[-1]['score']:.4g}" if trial.reports else "starts"
            what = f"{at}  {score}" if trial.reports else f"starts  {describe(trial.setting)}"
        elif trial.state == FAILED:
            what = f"failed: {trial.reason}"
        else:
            what = f"{trial.state} at {at}" + (f"  best {best:.4g}" if best is not None else "")
            what += f"  ({trial.reason})" if trial.reason else ""
        line = f"trial {trial.id}  {what}"
        more = "" if self._table.is_terminal else f"  | {self.summary(trials, total=total, left_s=left_s)}"
        self.print(f"{line}{more}")

    def is_due(self) -> bool:
        """Return whether there is a table and it was drawn a second ago or longer."""
        return self._table.is_due()

    def show(self, trials: Sequence[Trial], *, total: int | None, left_s: float | None) -> None:
        """Draw the table anew."""
        columns = shutil.get_terminal_size().columns
        lines = [
            self.summary(trials, total=total, left_s=left_s),
            *to_rows(trials, self.mode, self.metric, self.counter),
        ]
        shown = lines[: ROWS + 2]
        if len(lines) > len(shown):
            shown.append(f"... and {len(lines) - len(shown)} more")
        self._table.show("".join(f"{line[: columns - 1]}\n" for line in shown))

    def close(self) -> None:
        """Erase the table."""
        self._table.clear()

    def summary(self, trials: Sequence[Trial], *, total: int | None, left_s: float | None) -> str:
        """Summarize the sweep in one line."""
        count = Counter([trial.state for trial in trials])
        best = trials[0].best(self.mode) if trials and trials[0].state != FAILED else None
        parts = [f"best {best:.4g} ({trials[0].id})" if best is not None else "no value yet"]
        parts += [f"{count[state]} {state}" for state in (RUNNING, *ENDED)]
        if total is not None:
            parts.append(f"{max(total - sum(count[state] for state in ENDED), 0)} of {total} to go")
        if left_s is not None:
            parts.append(f"~{_format_duration(left_s)} left")
        return ", ".join(parts)


def to_rows(trials: Sequence[Trial], mode: str, metric: str, counter: str) -> list[str]:
    """Format trials as table rows below a header."""
    rows = [("trial", metric, counter, "state", "setting")]
    for trial in trials:
        best = trial.best(mode)
        state = trial.state + (f": {trial.reason}" if trial.reason else "")
        value = "-" if best is None or trial.state == FAILED else f"{best:.4g}"
        rows.append((trial.id, value, f"{trial.at:g}/{trial.length:g}", state, describe(trial.setting)))
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells so that columns align."""
    widths = [min(max(len(row[i]) for row in rows), 60) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def describe(setting: Mapping[str, Value]) -> str:
    """Format a setting in one line, with the shortest unambiguous keys."""
    if not setting:
        return "the config's own setting"
    names = short_names(list(setting))
    return ", ".join(f"{names[key]}={value}" for key, value in setting.items())


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Map each key to its shortest suffix that no other key has."""
    parts = {key: key.split(".") for key in keys}
    out = {}
    for key in keys:
        for count in range(1, len(parts[key]) + 1):
            ending = parts[key][-count:]
            alike = [other for other in keys if parts[other][-count:] == ending]
            if len(alike) == 1 and not ending[0].lstrip("-").isdigit():
                out[key] = ".".join(ending)
                break
        else:
            out[key] = key
    return out


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
