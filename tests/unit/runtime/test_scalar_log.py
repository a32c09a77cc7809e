"""The continuous record: cut back to where a run resumes, torn lines dropped, redone steps marked."""

from __future__ import annotations

import json
from pathlib import Path

from raydet3d.runtime.scalar_log import ScalarLog


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def begun(path: Path, iteration: int, **kwargs: bool) -> ScalarLog:
    record = ScalarLog(path)
    record.begin(iteration, **kwargs)
    return record


def test_resuming_removes_later_lines_and_marks_repeated_ones(tmp_path: Path) -> None:
    path = tmp_path / "scalars.json"
    record = begun(path, 0)
    for i in (5, 10, 15):
        record.write({"loss": i / 10}, mode="train", iteration=i, step=i)
    record.write({"AP": 7.0}, mode="val", iteration=10, step=1)
    with path.open("a") as file:
        file.write('{"loss": 0.1, "it')  # killed while writing
    record = begun(path, 10, drop_validation=True)
    assert [(line["iter"], line["mode"]) for line in lines(path)] == [(5, "train"), (10, "train")]
    for i in (15, 20):
        record.write({"loss": 1.0}, mode="train", iteration=i, step=i)
    assert [line.get("redone", False) for line in lines(path)] == [False, False, True, False]
    begun(path, 10)
    assert [line["iter"] for line in lines(path)] == [5, 10]


def test_resuming_keeps_finished_validations_and_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "scalars.json"
    begun(path, 0).write({"AP": 7.0}, mode="val", iteration=10, step=1)
    begun(path, 10)
    assert len(lines(path)) == 1
    begun(path, 0)
    assert lines(path) == []
    assert len(lines(tmp_path / "scalars_1.json")) == 1  # an earlier run's record is no longer in the way, but there
    begun(path, 0).write({}, mode="val", iteration=10, step=1)
    begun(path, 0)
    assert len(lines(tmp_path / "scalars_2.json")) == 1


def test_lines_are_standard_json(tmp_path: Path) -> None:
    record = begun(tmp_path / "scalars.json", 0)
    record.write({"loss": float("nan"), "name": "x", "odd": [1]}, mode="train", iteration=1, step=1)
    (line,) = lines(record.path)
    assert line["loss"] is None
    assert line["odd"] == "[1]"
    ScalarLog(tmp_path / "other.json").write({}, mode="val", iteration=1, step=1)  # a test of weights keeps no record
    assert not (tmp_path / "other.json").exists()
