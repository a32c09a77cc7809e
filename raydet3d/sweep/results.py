"""Results of a sweep: trials best first, as CSV, JSON and HTML, and the best trial's config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.sweep.ranking import Ranking
from raydet3d.sweep.sweep_console import align, describe, to_rows
from raydet3d.sweep.trial_store import FAILED, Trial, TrialStore, read_sweep_record

if TYPE_CHECKING:
    import pandas as pd

TIED_HINT = "train longer, or rank by a metric that tells them apart"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Trials of a sweep, best first.

    Args:
        folder: The sweep's folder.
        name: Its name.
        metric: Full name of the metric.
        mode: `max` or `min`.
        counter: Unit of training length: `epoch` or `iter`.
        trials: The trials.
        kinds: Scale of each key of the space: `log`, `linear` or `choice`.
        values: Values of each trial by key; the config's own where its setting has none.
        seconds: Duration of the sweep.
        num_seeds: Number of trials per setting.
    """

    folder: Path
    name: str
    metric: str
    mode: str
    counter: str
    trials: list[Trial]
    kinds: Mapping[str, str]
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    num_seeds: int = 1

    @property
    def best(self) -> Trial | None:
        """Return the best trial, or None where no trial has a score."""
        first = self.trials[0] if self.trials else None
        return first if first is not None and first.state != FAILED and first.best(self.mode) is not None else None

    @property
    def is_tied(self) -> bool:
        """Whether several trials have a score and all scores are equal, so that the best one is only the first."""
        scores = [trial.best(self.mode) for trial in self.trials if trial.state != FAILED]
        known = [score for score in scores if score is not None]
        return len(known) > 1 and len(set(known)) == 1

    @property
    def best_config(self) -> Path:
        """Path of the best trial's config."""
        return self.folder / "best_config.py"

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat dict per trial, best first."""
        means = self.means()
        out = []
        for rank, trial in enumerate(self.trials, 1):
            best_at = next((r["at"] for r in trial.reports if r["score"] == trial.best(self.mode)), None)
            row = {
                "rank": rank,
                "trial": trial.id,
                "state": trial.state,
                "reason": trial.reason,
                self.metric: None if trial.state == FAILED else trial.best(self.mode),
                "best_at": best_at,
                "last": trial.reports[-1]["score"] if trial.reports else None,
                self.counter: trial.at,
                "of": trial.length,
                "seed": trial.seed,
                "seconds": round(trial.seconds, 1),
                "digest": trial.digest,
            }
            if self.num_seeds > 1:
                row["mean"] = means.get(trial.number)
            out.append({**row, **self.values.get(trial.id, trial.setting)})
        return out

    def means(self) -> dict[int, float]:
        """Return the mean of the trials' best scores by number of the setting."""
        return Ranking(self.trials, self.mode).means

    def __str__(self) -> str:
        lines = to_rows(self.trials, self.mode, self.metric.rsplit("/", 1)[-1], self.counter)
        if self.num_seeds > 1:
            means = self.means()
            rows = [("setting", "mean", "trials")]
            for number in dict.fromkeys(trial.number for trial in self.trials):
                some = [trial for trial in self.trials if trial.number == number]
                mean = f"{means[number]:.4g}" if number in means else "-"
                rows.append((f"{number:03d}", mean, f"{len(some)}  {describe(some[0].setting)}"))
            lines = [*align(rows), "", *lines]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """Return `rows` as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows(), dtype=object)  # object: an integer column with gaps stays one

    def to_html(self) -> str:
        """Return the rows as an HTML table."""
        frame = self.to_frame()
        if frame.empty:
            return "<p>no trials</p>"
        table: str = frame.map(_format_cell).to_html(index=False, border=0)
        return table

    _repr_html_ = to_html


def _format_cell(value: object) -> str:
    if value is None or value != value:  # NaN stands for a key that the trial does not have
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def read_results(folder: Path) -> Results:
    """Read the results of a sweep, finished or not.

    Args:
        folder: The sweep's folder.

    Raises:
        InputError: There is no sweep in it.
    """
    about = read_sweep_record(folder)
    ledger = TrialStore(folder)
    if about is None:
        if not ledger.trials.is_dir():
            raise InputError(f"{folder} holds no sweep: it has neither sweep.json nor trials/")
        raise InputError(f"{folder / 'sweep.json'} cannot be read; run the sweep's command again, which repairs it")
    trials, _ = ledger.load()
    own = about["own_values"]
    return Results(
        folder=folder,
        name=about["name"],
        metric=about["metric"],
        mode=about["mode"],
        counter=about["counter"],
        trials=Ranking(trials, about["mode"]).trials(),
        kinds=about["kinds"],
        values={trial.id: {**own, **trial.setting} for trial in trials},
        seconds=ledger.time_spent(),
        num_seeds=about["num_seeds"],
    )


def write_tables(results: Results) -> None:
    """Write `results.csv` and `results.json`."""
    results.to_frame().to_csv(results.folder / "results.csv", index=False)
    whole = {
        "name": results.name,
        "metric": results.metric,
        "mode": results.mode,
        "seconds": results.seconds,
        "trials": [
            {**row, "exploits": trial.exploits, "curve": [[r["at"], r["score"]] for r in trial.reports]}
            for row, trial in zip(results.rows(), results.trials, strict=True)
        ],
    }
    (results.folder / "results.json").write_text(json.dumps(whole, indent=1, default=str) + "\n", encoding="utf-8")


def write_best_config(results: Results, cfg: Config) -> Path:
    """Write the best trial's config, with its seed and number of workers: training it reproduces the trial.

    Args:
        results: Results with a best trial.
        cfg: The best trial's config.
    """
    trial = results.best
    assert trial is not None
    cfg = cfg.copy()
    cfg["work_dir"] = f"work_dirs/{results.name}-best"
    head = [
        f"Best of {len(results.trials)} trials of sweep {results.name}: trial {trial.id},",
        f"{results.metric} {trial.best(results.mode):.6g}, {describe(trial.setting)}.",
    ]
    if trial.exploits:
        head.append(f"It continued from other trials {len(trial.exploits)} times; these are its final settings.")
    text = cfg.pretty_text
    doc = "\n".join(head).replace("\\", "/").replace('"""', "'''")
    results.best_config.write_text(
        f'"""{doc}\n\n    python -m raydet3d.train {results.best_config}\n"""\n\n{text}', encoding="utf-8"
    )
    return results.best_config
