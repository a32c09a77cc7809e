"""Saved predictions are scored again to equal numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.evaluate import main as evaluate
from raydet3d.reports.run_files import read_run
from raydet3d.reports.run_report import render_runs
from raydet3d.runtime import assemble
from raydet3d.runtime.rescore import score_predictions
from tests.kit.small_detector import write_project


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("project")
    config, checkpoint = write_project(folder)
    cfg = Config.fromfile(config)
    saved = folder / "found.npz"
    run = cfg.copy()
    run["test_evaluator"] = [run["test_evaluator"], {"type": "PredictionFile", "out_file": str(saved)}]
    run["work_dir"], run["load_from"] = str(folder / "work"), str(checkpoint)
    return cfg, saved, assemble(run).test()


def test_numbers_are_equal(scored: tuple[Config, Path, dict[str, float]]) -> None:
    cfg, saved, metrics = scored
    assert score_predictions(cfg, saved).metrics == metrics
    assert len(metrics) > 20


def test_scored_predictions_have_a_report(
    scored: tuple[Config, Path, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg, saved, _ = scored
    place = tmp_path / "work" / "analysis.json"

    def score() -> str:
        flags = [str(cfg.filename), "--predictions", str(saved), "--work-dir", str(place.parent)]
        monkeypatch.setattr("sys.argv", ["evaluate", *flags])
        assert evaluate() == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Analysis: "))

    assert score() == f"Analysis: {place}"
    analysis = json.loads(place.read_bytes())
    assert analysis["source"] == "found.npz"
    page = render_runs([read_run(place.parent)])
    for text in (
        "<h2>Precision and recall</h2>",
        "Pedestrian: AP by distance",
        "evaluation of found.npz",
        "evaluated only",
    ):
        assert text in page
    assert "bad steps" not in page
    place.write_text(json.dumps(analysis | {"source": "older"}))
    assert score() == f"Analysis: {place}"  # an equal score is renewed
    assert json.loads(place.read_bytes()) == analysis
    place.write_text(json.dumps(analysis | {"score": 101.0}))
    assert "left as it is" in score()
    assert json.loads(place.read_bytes())["score"] == 101


def test_a_part_of_the_frames_may_be_scored(scored: tuple[Config, Path, dict[str, float]]) -> None:
    cfg, saved, metrics = scored
    part = cfg.copy()
    part["test_dataloader"]["dataset"]["indices"] = 2
    assert set(score_predictions(part, saved).metrics) == set(metrics)


def test_missing_frames_and_other_classes_are_named(scored: tuple[Config, Path, dict[str, float]]) -> None:
    cfg, saved, _ = scored
    other = cfg.copy()
    dataset = other["test_dataloader"]["dataset"]
    dataset.update(ann_file="kitti_infos_trainval.pkl")
    with pytest.raises(InputError, match="no predictions of frame 0"):
        score_predictions(other, saved)
    dataset["metainfo"]["classes"] = ["Car"]
    with pytest.raises(InputError, match="classes Pedestrian, Cyclist, Car, the config Car"):
        score_predictions(other, saved)
