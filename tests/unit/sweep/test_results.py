"""Tables of a sweep's results."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from raydet3d.sweep.results import Results, write_tables
from raydet3d.sweep.sweep_report import write_report
from raydet3d.sweep.trial_store import FAILED
from raydet3d.tune import print_results
from tests.unit.sweep.test_sweep_console import trial


def make_results(folder: Path) -> Results:
    trials = [trial("000", 1.0, 4.0, lr=0.1), trial("001", state=FAILED, reason="<out of memory>", lr=0.3, kind=[1, 2])]
    return Results(
        folder=folder,
        name="x",
        metric="toy/AP",
        mode="max",
        counter="epoch",
        trials=trials,
        kinds={"lr": "log", "kind": "choice"},
        values={one.id: one.setting for one in trials},
    )


def test_tables_leave_missing_values_empty_and_keep_integers(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    write_tables(results)
    with (tmp_path / "results.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["trial"], first["toy/AP"], first["best_at"], first["kind"]) == ("000", "4.0", "2", "")
    assert (second["toy/AP"], second["best_at"], second["last"], second["kind"]) == ("", "", "", "[1, 2]")
    curves = [entry["curve"] for entry in json.loads((tmp_path / "results.json").read_text())["trials"]]
    assert curves == [[[1, 1.0], [2, 4.0]], []]


def test_the_report_is_one_page_with_escaped_text(tmp_path: Path) -> None:
    page = write_report(make_results(tmp_path)).read_text()
    assert "&lt;out of memory&gt;" in page
    assert "nan" not in page.split("<table")[1].lower()
    assert page.count('<svg class="chart"') == 1  # the scores; a single trial with a score has no parallel coordinates
    assert "python -m raydet3d.train" in page


def test_the_page_shows_settings_against_scores_and_schedules(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    results.trials[1:] = [trial("001", 2.0, 3.0, lr=0.01), trial("002", 1.0, 1.5, lr=0.001)]
    results.values.update({one.id: one.setting for one in results.trials})  # type: ignore[attr-defined]
    folder = tmp_path / "trials" / "000"
    folder.mkdir(parents=True)
    lines = [{"lr": 0.1 / i, "loss": 1 / i, "step": i, "mode": "train", "iter": i} for i in range(1, 9)]
    (folder / "scalars.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    page = write_report(results, tmp_path / "elsewhere.html").read_text()
    for title in ("toy/AP", "Settings and scores", "Learning rate", "Loss"):
        assert f'aria-label="{title}"' in page
    assert "trial 002" in page


@pytest.mark.parametrize(("scores", "is_tied"), [((0.0, 0.0), True), ((0.0, 0.1), False), ((0.5,), False), ((), False)])
def test_equal_scores_have_no_best_trial(
    scores: tuple[float, ...], is_tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = make_results(tmp_path)
    results.trials[:-1] = [trial(f"{number:03d}", score) for number, score in enumerate(scores)]
    assert results.is_tied == is_tied
    print_results(results)
    assert ("All scores are equal" in capsys.readouterr().out) == is_tied
    assert ("All scores are equal" in write_report(results).read_text()) == is_tied
