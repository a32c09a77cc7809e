"""LoggerHook: lines and files of a run of toys; formats are those that MMEngine 0.10.7 prints."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from raydet3d.errors import InputError
from raydet3d.hooks import LoggerHook
from raydet3d.runtime import Runner, assemble
from tests.kit.toy import ToyMetric, ToyModel, toy_cfg

LOCAL = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
NO_SAVES = {"type": "CheckpointHook", "save_last": False}
NUMBER = r"\d+\.\d{4}"
TIMES = rf"time: {NUMBER}  data_time: {NUMBER}  memory: \d+"


def run(folder: Path, **changes: Any) -> tuple[Runner, str]:
    runner = assemble(toy_cfg(folder, default_hooks__checkpoint=NO_SAVES, **changes))
    runner.train()
    return runner, next(folder.glob("*/*.log")).read_text()


def test_lines_by_epoch(tmp_path: Path) -> None:
    _, text = run(tmp_path, train_cfg={"by_epoch": True, "max_epochs": 10, "val_interval": 9})
    header = r"^\d\d/\d\d \d\d:\d\d:\d\d - raydet3d - INFO - "
    losses = rf"grad_norm: {NUMBER}  loss: {NUMBER}  loss_fit: {NUMBER}  error: {NUMBER}$"
    train = [line for line in text.splitlines() if "Epoch(train)" in line]
    assert len(train) == 20
    # The epoch stands right in the width of the last one's, the batch in that of the epoch's length.
    lr = rf"lr: {NUMBER}e-\d\d  eta: \d:\d\d:\d\d  {TIMES}  {losses}"
    assert re.search(header + r"Epoch\(train\)  \[1\]\[ 5/12\]  " + lr, train[0])
    assert re.search(header + r"Epoch\(train\)  \[9\]\[10/12\]  " + lr, train[17])
    assert re.search(header + r"Epoch\(train\) \[10\]\[10/12\]  " + lr, train[-1])
    val = [line for line in text.splitlines() if "Epoch(val)" in line]
    assert re.search(rf"Epoch\(val\)  \[9\]\[5/5\]    eta: 0:00:00  {TIMES}$", val[0])
    scores = rf"toy/mAE_loss: {NUMBER}  toy/AP: {NUMBER}  toy/count: 9  data_time: {NUMBER}  time: {NUMBER}$"
    assert re.search(r"Epoch\(val\) \[9\]\[5/5\]    " + scores, val[1])
    assert text.count("Exp name: run_") == 10  # at the end of each epoch


def test_lines_by_iteration_and_of_a_test(tmp_path: Path) -> None:
    changes = {
        "train_cfg": {"by_epoch": False, "max_iters": 15, "val_interval": 10},
        "log_processor": {"by_epoch": False},
    }
    runner, text = run(tmp_path, **changes)
    assert re.search(r"Iter\(train\) \[ 5/15\]  lr: ", text)
    assert re.search(r"Iter\(val\) \[5/5\]    eta: ", text)
    assert re.search(r"Iter\(val\) \[5/5\]    toy/mAE_loss: ", text)
    metrics = runner.test()
    text = next(tmp_path.glob("*/*.log")).read_text()
    assert re.search(r"Iter\(test\) \[5/5\]    eta: ", text)
    dumped = json.loads((runner.log_dir / f"{runner.timestamp}.json").read_text())
    assert dumped["toy/AP"] == metrics["toy/AP"]


def test_base_lr_comes_first(tmp_path: Path) -> None:
    wrapper = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 0.01},
        "paramwise_cfg": {"bias_lr_mult": 0.1, "bypass_duplicate": True},
    }
    _, text = run(tmp_path, optim_wrapper=wrapper, param_scheduler=[])
    assert "  base_lr: 1.0000e-02 lr: 1.0000e-02  eta: " in text


def test_scalars_go_to_the_backends_and_to_the_scalar_log(tmp_path: Path) -> None:
    runner, _ = run(tmp_path, visualizer=LOCAL)
    kept = (runner.log_dir / "vis_data" / "scalars.json").read_text().splitlines()
    twin = (runner.log_dir / "vis_data" / f"{runner.timestamp}.json").read_text().splitlines()
    assert kept == twin
    train = [json.loads(line) for line in kept if "loss" in json.loads(line)]
    names = ["lr", "data_time", "grad_norm", "loss", "loss_fit", "error", "time", "epoch", "iter", "memory", "step"]
    assert list(train[0]) == names
    assert [line["step"] for line in train] == [5, 10, 17, 22, 29, 34]
    assert [line["epoch"] for line in train] == [1, 1, 2, 2, 3, 3]
    val = [json.loads(line) for line in kept if "toy/AP" in json.loads(line)]
    assert [line["step"] for line in val] == [1, 2, 3]
    record = [json.loads(line) for line in (tmp_path / "scalars.json").read_text().splitlines()]
    assert [line["iter"] for line in record] == [5, 10, 12, 17, 22, 24, 29, 34, 36]


def test_the_scalar_log_continues_after_a_resume(tmp_path: Path) -> None:
    # F18
    save = {"type": "CheckpointHook", "interval": 7, "by_epoch": False, "save_last": False}
    assemble(toy_cfg(tmp_path, default_hooks__checkpoint=save)).train()
    before = [json.loads(line) for line in (tmp_path / "scalars.json").read_text().splitlines()]
    for path in ("iter_35.pth.json", "iter_28.pth.json"):
        (tmp_path / path).unlink()
    assemble(toy_cfg(tmp_path, default_hooks__checkpoint=save), resume=True).train()  # from iteration 21
    after = [json.loads(line) for line in (tmp_path / "scalars.json").read_text().splitlines()]
    assert [(line["iter"], line["mode"]) for line in before] == [(line["iter"], line["mode"]) for line in after]
    assert [line.get("redone", False) for line in after] == [line["iter"] > 21 for line in after]
    assert [line.get("loss") for line in before] == [line.get("loss") for line in after]


def test_a_short_epoch_still_has_a_line(tmp_path: Path) -> None:
    hooks = {"type": "LoggerHook", "interval": 50}
    _, text = run(tmp_path, default_hooks__logger=hooks)
    assert len(re.findall(r"Epoch\(train\) \[\d\]\[12/12\]", text)) == 3
    _, text = run(tmp_path / "rest", default_hooks__logger={"interval": 5, "ignore_last": False, "type": "LoggerHook"})
    assert len(re.findall(r"Epoch\(train\) \[\d\]\[12/12\]", text)) == 3


def test_steps_that_were_left_out_are_named_with_their_samples(tmp_path: Path) -> None:
    runner, text = run(tmp_path, model={"type": ToyModel, "poison": [8, 10]})
    (line,) = [line for line in text.splitlines() if "left out" in line]
    assert "2 of the last 5 steps left out, weights untouched: first at iteration 8 (rank 0, samples [" in line
    assert re.search(r"samples \[\d+, \d+\]\): loss_fit was not finite", line)
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())


def test_the_result_has_the_headline_metrics(tmp_path: Path) -> None:
    logger = {"type": "LoggerHook", "interval": 5, "headline": ["toy/AP"]}
    result = assemble(toy_cfg(tmp_path, default_hooks__logger=logger)).train()
    assert set(result["headline"]) == {"AP"}
    assert {"toy/AP", "toy/count"} <= set(result["metrics"])


def test_logs_are_copied_where_wanted(tmp_path: Path) -> None:
    logger = {"type": "LoggerHook", "interval": 5, "out_dir": str(tmp_path / "out"), "keep_local": False}
    cfg = toy_cfg(tmp_path / "work", default_hooks__logger=logger, visualizer=LOCAL, default_hooks__checkpoint=NO_SAVES)
    assemble(cfg).train()
    copied = {path.suffix for path in (tmp_path / "out" / "work").rglob("*") if path.is_file()}
    assert copied == {".json", ".log", ".py"}
    assert not list((tmp_path / "work").glob("*/vis_data/scalars.json"))


def test_a_panel_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("raydet3d.progress_bar.LiveLine.is_due", lambda line: line.is_terminal)
    monkeypatch.setenv("COLUMNS", "200")
    best = {"type": "CheckpointHook", "interval": 1, "save_best": "toy/AP"}
    assemble(toy_cfg(tmp_path, default_hooks__checkpoint=best)).train()
    out = capsys.readouterr().out
    assert re.search(r"\[\.+\] 2 %  iteration 1/36  epoch 1/3  eta 0:00:\d\d", out)
    assert re.search(r"iteration 33/36  epoch 3/3  eta 0:00:\d\d", out)
    last = out[out.index("iteration 33/36") :]
    assert re.search(r"loss \d.*loss_fit \d", last)
    assert re.search(
        r"lr [\d.e-]+  [\d.]+ samples/s  \d+ % of the time waiting for data  memory \d+ MiB  1 worker", last
    )
    assert re.search(r"best score [\d.]+", last)
    # It is erased before a line of the log takes its place, and never reaches a file.
    assert re.search(r"\x1b\[J\d\d/\d\d ", out)
    assert all("\x1b" not in path.read_text() for path in tmp_path.glob("*/*.log"))
    assert "\x1b" not in (tmp_path / "scalars.json").read_text()


def test_momentum_and_bad_steps_are_in_the_scalar_log(tmp_path: Path) -> None:
    run(tmp_path, model={"type": ToyModel, "poison": [8, 10]})
    lines = [json.loads(line) for line in (tmp_path / "scalars.json").read_text().splitlines()]
    assert {line["momentum"] for line in lines if line["mode"] == "train"} == {0.9}
    guard = [line for line in lines if line["mode"] == "guard"]
    assert guard == [{"bad_steps": "[8, 10]", "step": 10, "mode": "guard", "iter": 10}]


class AnalysingMetric(ToyMetric):
    """A metric whose analysis has the scores 1, 3, 2."""

    scores: ClassVar[list[int]] = [1, 3, 2]

    def compute_metrics(self, results: list[tuple[int, float]]) -> dict[str, float]:
        curve = {"category": "Car", "level": "easy", "ap": 1.0, "recall": [0.5, 1.0], "precision": [1.0, 0.25]}
        self.analysis = {"score": self.scores.pop(0), "curves": [curve]}
        return super().compute_metrics(results)


def test_the_analysis_of_the_best_validation_is_kept_and_curves_reach_the_back_ends(tmp_path: Path) -> None:
    board = {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]}
    runner, _ = run(tmp_path, val_evaluator={"type": AnalysingMetric}, visualizer=board)
    found = json.loads((tmp_path / "analysis.json").read_text())
    assert (found["score"], found["epoch"], found["iter"], found["run"]) == (3, 2, 24, runner.run_name)
    (file,) = (runner.log_dir / "vis_data").glob("events*")
    assert file.read_bytes().count(b"pr/Car/easy") == 3


def test_an_evaluation_renews_the_analysis_of_its_work_dir_unless_that_is_better(tmp_path: Path) -> None:
    class Analysing(ToyMetric):
        def compute_metrics(self, results: list[tuple[int, float]]) -> dict[str, float]:
            score, title = current
            self.analysis = {"score_name": "AP", "score": score, "title": title, "curves": []}
            return super().compute_metrics(results)

    file = tmp_path / "analysis.json"
    file.write_text(json.dumps({"score_name": "AP", "score": 3.0, "title": "", "run": "trained", "iter": 24}))
    runner = assemble(toy_cfg(tmp_path, test_evaluator={"type": Analysing}))
    for *current, kept in ((3.0, "equal", "equal"), (2.0, "worse", "equal"), (4.0, "better", "better")):
        runner.test()
        found = json.loads(file.read_text())
        assert (found["title"], found["run"], "iter" in found) == (kept, "trained", False)
        assert json.loads((runner.log_dir / "analysis.json").read_text())["title"] == current[1]


def test_only_folders_are_written_to() -> None:
    LoggerHook(backend_args={"backend": "local"}, file_client_args=None)
    with pytest.raises(InputError, match=r"LoggerHook: .*backend 's3' is not known"):
        LoggerHook(file_client_args={"backend": "s3"})


@pytest.mark.parametrize("interval", [0, -1, 2.5])
def test_bad_intervals(interval: Any) -> None:
    with pytest.raises(InputError, match="interval must be an integer of at least 1"):
        LoggerHook(interval=interval)
