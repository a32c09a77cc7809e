"""The commands `report` and `watch` on work dirs, sweeps and what is neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.runs import ROOT

LINE = {"lr": 0.1, "loss": 2.0, "time": 0.5, "data_time": 0.1, "epoch": 1, "step": 5, "mode": "train", "iter": 5}


def run(command: str, *flags: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", f"raydet3d.{command}", *map(str, flags)]
    return subprocess.run(arguments, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "scalars.json").write_text(json.dumps(LINE) + "\n")
    return folder


def test_a_page_is_written_where_it_is_wanted(work_dir: Path, tmp_path: Path) -> None:
    for flags, page in (
        ((), work_dir / "report.html"),
        (("--out", tmp_path / "new" / "a.html"), tmp_path / "new" / "a.html"),
    ):
        done = run("report", work_dir, *flags)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"Report: {page}\n"
        assert page.read_text().startswith("<!doctype html>")
    done = run("report", work_dir.as_uri(), "--compare", work_dir, "--out", tmp_path / "both.html")
    assert done.returncode == 0, done.stderr
    assert "Comparison of 2 runs" in (tmp_path / "both.html").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["{}", "--compare", "nowhere"], "nowhere: there is no such folder"),
        (["{}/.."], "there is no run here"),
        (["file://{}"], "--out"),
        (["{}", "--out", "/proc/x.html"], "/proc/x.html"),
    ],
)
def test_bad_input_is_one_sentence(work_dir: Path, flags: list[str], words: str) -> None:
    done = run("report", *[flag.format(work_dir) for flag in flags])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_watch_prints_rows_or_json_once(work_dir: Path) -> None:
    done = run("watch", work_dir, "--once")
    assert done.returncode == 0, done.stderr
    assert "iteration 5" in done.stdout
    assert "\x1b" not in done.stdout
    found = json.loads(run("watch", work_dir, "--once", "--json").stdout)
    assert (found["iteration"], found["losses"]) == (5, {"loss": 2.0})
    for flags in ((work_dir, "--interval", 0), (work_dir.parent / "no",)):
        done = run("watch", *flags)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
