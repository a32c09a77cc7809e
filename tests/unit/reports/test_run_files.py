"""What is read of a run's files, whole, damaged and long."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raydet3d.errors import InputError
from raydet3d.reports import run_files
from raydet3d.reports.run_files import leaves, read_run, read_scalars

LINES = [
    {"lr": 0.1, "loss": 2.0, "step": 5, "mode": "train", "iter": 5},
    {"lr": 0.1, "loss": None, "step": 10, "mode": "train", "iter": 10},
    {"bad_steps": "[8, 9]", "step": 10, "mode": "guard", "iter": 10},
    {"mAP": 0.5, "step": 1, "mode": "val", "iter": 12},
    {"workers/0/samples_per_s": 3.5, "step": 12, "mode": "workers", "iter": 12},
    {"lr": 0, "loss": 1, "step": 15, "mode": "train", "iter": 15, "redone": True},
]
TEXT = "".join(f"{json.dumps(line)}\n" for line in LINES).encode()


@pytest.mark.parametrize("with_arrow", [False, True])
def test_scalars_are_columns_by_mode(monkeypatch: pytest.MonkeyPatch, with_arrow: bool) -> None:
    monkeypatch.setattr(run_files, "ARROW_BYTES", 0 if with_arrow else 1 << 30)
    scalars, bad = read_scalars(TEXT + b'{"torn": ')
    assert bad == [8, 9]
    assert scalars["train"]["iter"].tolist() == [5, 10, 15]
    np.testing.assert_array_equal(scalars["train"]["loss"], [2, np.nan, 1])
    assert scalars["train"]["lr"].tolist() == [0.1, 0.1, 0]
    assert "mAP" not in scalars["train"]
    assert scalars["val"]["mAP"].tolist() == [0.5]
    assert scalars["workers"]["workers/0/samples_per_s"].tolist() == [3.5]


def test_a_damaged_line_of_a_long_file_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "ARROW_BYTES", 0)
    scalars, bad = read_scalars(b"\xff\xfe{\n" + TEXT)
    assert scalars["train"]["iter"].tolist() == [5, 10, 15]
    assert bad == [8, 9]


def test_scalars_of_mmengine_have_no_mode() -> None:
    text = b'{"lr": 0.1, "loss": 1.0, "iter": 50, "step": 50}\n{"mAP": 0.3, "step": 1}\n'
    scalars, _ = read_scalars(text)
    assert scalars["train"]["loss"].tolist() == [1]
    assert scalars["val"]["mAP"].tolist() == [0.3]


def test_only_the_last_run_of_a_work_dir_is_read(tmp_path: Path) -> None:
    starts = [
        {"from": 0, "redone": 0, "workers": 2, "why": "", "run": "old"},
        {"from": 0, "redone": 0, "workers": 4, "why": "", "run": "new", "max_iters": 30, "unknown": 1},
        {"from": 10, "redone": 3, "workers": 2, "why": "a worker process died", "run": "new"},
        {"finished": True, "iter": 30, "saved": 30, "result": {"headline": {"mAP": 1}}, "run": "new"},
    ]
    (tmp_path / "starts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in starts) + '{"fr')
    run = read_run(tmp_path)
    assert [(start["iteration"], start["workers"]) for start in run.starts] == [(0, 4), (10, 2)]
    assert [start["why"] for start in run.restarts] == ["a worker process died"]
    assert run.is_finished
    assert run.result["headline"] == {"mAP": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"starts.jsonl"}  # the damaged line stays


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run here"):
        read_run(tmp_path)


def test_damaged_manifests_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "scalars.json").write_bytes(TEXT)
    (tmp_path / "epoch_1.pth.json").write_text("{")
    assert read_run(tmp_path).manifests == []
    assert (tmp_path / "epoch_1.pth.json").read_text() == "{"


def test_leaves_are_values_by_dotted_key() -> None:
    config = {"a": {"b": 1, "c": [1, 2]}, "d": [{"type": "X"}, {"type": "Y"}], "e": {}}
    assert leaves(config) == {"a.b": "1", "a.c": "[1, 2]", "d.0.type": "'X'", "d.1.type": "'Y'", "e": "{}"}


def test_an_analysis_of_another_version_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "scalars.json").write_text('{"lr": 0.1, "mode": "train", "iter": 5}\n')
    confusion = {"classes": ["Car"], "counts": [[1, 0], [0, 0]], "threshold": 0.3}
    error = {"category": "Car", "matches": 1}
    for name, known in (("analysis.json", {}), ("20260101_000000/analysis.json", {"offsets": []})):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = {"confusion": confusion, "tolerance": [], "sizes": [], "errors": [{**error, **known}]}
        (tmp_path / name).write_text(json.dumps(content))
    analysis = read_run(tmp_path).analysis
    assert analysis is not None
    assert analysis["errors"][0]["offsets"] == []
    (tmp_path / "20260101_000000" / "analysis.json").unlink()
    assert read_run(tmp_path).analysis is None
