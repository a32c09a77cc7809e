"""The page of runs of toys: its numbers are the metric's, its marks are the run's."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydet3d.metrics.analysis import TOLERANCES_M
from raydet3d.reports.run_files import read_run
from raydet3d.reports.run_report import best_value, config_differences, headline, moving_mean, render_runs
from raydet3d.runtime import assemble
from tests.kit.toy import ToyModel, toy_cfg


class Cells(HTMLParser):
    """Collects the rows of all tables, and the external references of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.references: list[str] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        self._in_cell = tag in ("td", "th")
        if self._in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data.strip()

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)[1:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs")
    best = {"type": "CheckpointHook", "interval": 1, "save_best": "toy/AP", "max_keep_ckpts": 2}
    first = toy_cfg(folder / "a", default_hooks__checkpoint=best, model={"type": ToyModel, "poison": [8, 10]})
    result = assemble(first).train()
    second = toy_cfg(folder / "b", default_hooks__checkpoint=best)
    second["optim_wrapper"]["optimizer"]["lr"] = 0.02
    assemble(second).train()
    return folder / "a", folder / "b", dict(result)


def test_the_scores_are_the_metrics(runs: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, result = runs
    run = read_run(folder)
    lines = [json.loads(line) for line in (folder / "scalars.json").read_text().splitlines()]
    val = [line for line in lines if line["mode"] == "val"]
    assert headline(run) == ["toy/AP"]
    assert best_value(run, "toy/AP") == (max(line["toy/AP"] for line in val), 3)
    assert best_value(run, "toy/mAE_loss") == (min(line["toy/mAE_loss"] for line in val), 3)
    cells = Cells(render_runs([run]))
    assert [float(cell) for cell in cells.row("toy/AP")] == pytest.approx(
        [result["best_score"], 3, result["metrics"]["toy/AP"]], rel=1e-4
    )
    assert cells.row("bad steps") == ["2"]
    assert cells.row("best toy/AP")[0].endswith(" at epoch 3")


def test_the_page_is_whole_in_itself_and_marks_bad_steps(runs: tuple[Path, Path, dict[str, Any]]) -> None:
    page = render_runs([read_run(runs[0])])
    assert all(one.startswith(("#", "data:")) for one in Cells(page).references)
    assert not re.findall(r"https?://|url\(", page)
    assert "bad step 8: left out" in page
    assert "bad step 10: left out" in page
    assert "2 steps were left out" in page
    assert "python -m raydet3d.evaluate CONFIG CHECKPOINT" in page  # how to get the sections on detections
    assert "epoch_3.pth" in page


def test_a_comparison_begins_with_the_keys_that_differ(runs: tuple[Path, Path, dict[str, Any]]) -> None:
    page = render_runs([read_run(runs[0]), read_run(runs[1])])
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[:2] == ["Config keys that differ", "Summary"]
    cells = Cells(page)
    assert cells.row("optim_wrapper.optimizer.lr") == ["0.01", "0.02"]
    assert cells.row("model.poison") == ["[8, 10]", "absent"]
    assert "work_dir" not in {row[0] for row in cells.rows if row}
    assert cells.row("bad steps") == ["2", "0"]


def test_overrides_of_the_config_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(
        "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))\nval_cfg = dict(a=1)\n"
    )
    config = tmp_path / "own.py"
    config.write_text("_base_ = './base.py'\nval_cfg = dict(a=2)\n")
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    (work_dir / "scalars.json").write_text(json.dumps({"lr": 1.0, "mode": "train", "iter": 5}) + "\n")
    (work_dir / "starts.jsonl").write_text(json.dumps({"from": 0, "run": "r", "config": str(config)}) + "\n")
    text = config.read_text().replace(
        "_base_ = './base.py'", "optim_wrapper = dict(optimizer=dict(type='SGD', lr=1.0))"
    )
    (work_dir / "own.py").write_text(text)
    differences, _ = config_differences(read_run(work_dir))
    changed = ("optim_wrapper.optimizer.lr", "0.01", "1.0")
    assert [(one.key, one.before, one.now) for one in differences["the config file"]] == [changed]
    assert [(one.key, one.before, one.now) for one in differences["the base config"]] == [
        changed,
        ("val_cfg.a", "1", "2"),
    ]
    assert "lr is 1.0, 100 times the 0.01 of the config file" in render_runs([read_run(work_dir)])


def test_the_newest_pictures_are_embedded_in_the_order_of_their_iterations(tmp_path: Path) -> None:
    folder = tmp_path / "20260101_000000" / "vis_data" / "vis_image"
    folder.mkdir(parents=True)
    for step in (5, 20, 100, 3, 40, 60, 80):
        Image.new("RGB", (1800, 40), (step, 0, 0)).save(folder / f"val_{step}.png")
    (folder / "val_999.png").write_bytes(b"no picture")
    (tmp_path / "scalars.json").write_text(json.dumps({"lr": 0.1, "mode": "train", "iter": 5}) + "\n")
    page = render_runs([read_run(tmp_path)])
    assert re.findall(r'<img alt="(.*?)"', page) == [
        "val_20.png",
        "val_40.png",
        "val_60.png",
        "val_80.png",
        "val_100.png",
    ]
    assert page.count("data:image/jpeg;base64,") == 5


def test_a_moving_mean_skips_unknown_values() -> None:
    x, y = moving_mean(np.arange(5.0), np.array([1.0, np.nan, 3.0, 5.0, 10.0]), 2)
    assert x.tolist() == [2, 3, 4]
    assert y.tolist() == [2, 4, 7.5]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        (tmp_path / parent / "run").mkdir(parents=True)
        line = {"lr": 0.1, "loss": 2.0, "step": 5, "mode": "train", "iter": 5}
        (tmp_path / parent / "run" / "scalars.json").write_text(json.dumps(line) + "\n")
    page = render_runs([read_run(tmp_path / "x" / "run"), read_run(tmp_path / "y" / "run")])
    assert "x/run" in page
    assert "y/run" in page


def test_a_run_of_a_comparison_has_its_colour_and_name_in_every_chart(tmp_path: Path) -> None:
    """Also where the others have no values: the second run's own metric and class are drawn in its colour."""
    bins = {"true": [0] * 19 + [3], "false": [0] * 19 + [1], "mean": [0.0] * 19 + [0.97]}
    for name, metric in (("a", "first/AP"), ("b", "second/AP")):
        train = {"lr": 0.1, "loss": 2.0, "step": 5, "mode": "train", "iter": 5}
        val = {metric: 0.5, "step": 5, "mode": "val", "iter": 7}
        (tmp_path / name).mkdir()
        (tmp_path / name / "scalars.json").write_text(f"{json.dumps(train)}\n{json.dumps(val)}\n")
    analysis = {
        **{"title": "by hand", "frames": 1, "score_name": "AP", "score": 0.5, "iter": 5, "errors": []},
        "curves": [{"category": "Car", "level": "2 m", "ap": 50.0, "recall": [0, 1], "precision": [1, 0]}],
        "distance": [{"category": "Car", "low": 0.0, "high": 10.0, "objects": 2, "ap": 50.0}],
        "points": [],
        "confusion": {"classes": ["Car"], "counts": [[2, 0], [0, 0]], "threshold": 0.5},
        "scores": [{"category": "Car", **bins}],
        "tolerance": [{"category": "Car", "ap": [50.0] * len(TOLERANCES_M)}],
        "sizes": [],
    }
    (tmp_path / "b" / "analysis.json").write_text(json.dumps(analysis))
    page = render_runs([read_run(tmp_path / "a"), read_run(tmp_path / "b")])
    charts = dict(re.findall(r"<figure class=\"panel\"><h3>(.*?)</h3>(.*?)</figure>", page, re.DOTALL))
    used = {
        title: set(re.findall(r"\b[cf](\d)\b", charts[title]))
        for title in (
            *("AP", "Loss", "Car", "Car: AP by distance", "Car: AP by distance between centres"),
            "Car: precision by score",
        )
    }
    assert used.pop("Loss") == {"1", "2"}
    assert set(map(frozenset, used.values())) == {frozenset("2")}
    assert all('<span class="swatch f2"></span>b' in charts[title] for title in used)
    assert Cells(page).row("iterations") == ["7", "7"]


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    line = {"lr": 0.1, "<script>loss": 2.0, "loss": 1.0, "step": 5, "mode": "train", "iter": 5}
    start = {"from": 0, "redone": 0, "run": "r", "why": ""}
    again = {"from": 5, "redone": 0, "run": "r", "why": "<script>alert(1)</script>"}
    (tmp_path / "scalars.json").write_text(json.dumps(line) + "\n")
    (tmp_path / "starts.jsonl").write_text(f"{json.dumps(start)}\n{json.dumps(again)}\n")
    page = render_runs([read_run(tmp_path)])
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
