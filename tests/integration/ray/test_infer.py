"""Inference and evaluation on real Ray workers: the same boxes and the same numbers as in one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.evaluate import evaluate
from raydet3d.evaluate import make_parser as evaluate_parser
from raydet3d.infer import infer, parse
from raydet3d.launch.signals import StopRequest
from raydet3d.metrics.prediction_file import read_predictions
from tests.integration.test_infer import finish, results, start, until_some
from tests.kit.small_detector import clouds_of, write_project
from tests.kit.tiny_kitti import eval_pipeline

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


def run_infer(project: Path, clouds: Path, out: Path, *flags: object) -> int:
    given = [project / "small.py", project / "small.pth", clouds, "--out", out, *flags]
    return infer(parse([str(one) for one in given]), StopRequest())


def test_workers_find_what_one_process_finds_and_name_bad_files(two_cpus: None, project: Path, tmp_path: Path) -> None:
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    for number in range(30):
        shutil.copy(clouds_of(project)[number % 5], clouds / f"{number:06d}.bin")
    torn = clouds / "000007.bin"
    torn.write_bytes(torn.read_bytes()[:-3])
    found = []
    for workers in (0, 1, 2):
        out = tmp_path / f"out{workers}"
        assert run_infer(project, clouds, out, "--workers", workers) == 1
        found.append((out / "predictions.jsonl").read_text())
    assert found[0] == found[1] == found[2]
    lines = [json.loads(line) for line in found[0].splitlines()]
    assert [Path(line["file"]).name for line in lines] == [f"{number:06d}.bin" for number in range(30)]
    assert [number for number, line in enumerate(lines) if "error" in line] == [7]


def test_a_cloud_that_kills_its_process_is_named_and_the_others_go_on(
    two_cpus: None, project: Path, tmp_path: Path
) -> None:
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    for number in range(12):
        shutil.copy(clouds_of(project)[number % 5], clouds / f"{number:06d}.bin")
    (tmp_path / "deadly.py").write_text(
        f"_base_ = [{str(project / 'small.py')!r}]\n"
        "custom_imports = dict(imports=['tests.kit.deadly_cloud'], allow_failed_imports=False)\n"
        "ray = dict(max_failures=1)\n"
        f"test_dataloader = dict(dataset=dict(pipeline={[dict(type='DieAt', name='000005'), *eval_pipeline()]!r}))\n"
    )
    given = [tmp_path / "deadly.py", project / "small.pth", clouds, "--out", tmp_path / "out", "--workers", 1]
    assert infer(parse([str(one) for one in given]), StopRequest()) == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [number for number, line in enumerate(lines) if "error" in line] == [5]


def test_evaluations_agree_for_any_number_of_workers(
    two_cpus: None, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, saved = [], []
    for workers in (0, 1, 2):
        file = tmp_path / f"{workers}.npz"
        args = [project / "small.py", project / "small.pth", "--workers", workers, "--work-dir", tmp_path / "work"]
        args += ["--save-predictions", file]
        assert evaluate(evaluate_parser().parse_args([str(arg) for arg in args]), StopRequest()) == 0
        lines = capsys.readouterr().out.splitlines()
        printed.append([line for line in lines if line.startswith("Car_")])
        saved.append(read_predictions(file)[0])
    assert printed[0] == printed[1] == printed[2]
    assert len(printed[0]) > 10
    for frames in saved[1:]:
        assert list(frames) == list(saved[0])
        for name, frame in frames.items():
            ours: Any = frame["pred_instances_3d"]
            theirs: Any = saved[0][name]["pred_instances_3d"]
            assert (ours["bboxes_3d"].tensor == theirs["bboxes_3d"].tensor).all()
            assert (ours["scores_3d"] == theirs["scores_3d"]).all()
    assert not list((tmp_path / "work").rglob(".ray"))


def test_a_wrong_checkpoint_is_bad_input_on_workers_too(two_cpus: None, project: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"other.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    args = [project / "small.py", tmp_path / "other.pth", "--workers", 1, "--work-dir", tmp_path / "work"]
    with pytest.raises(InputError, match=r"other\.pth does not fit the model"):
        evaluate(evaluate_parser().parse_args([str(arg) for arg in args]), StopRequest())


def test_a_killed_inference_on_workers_goes_on(project: Path, tmp_path: Path) -> None:
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    for number in range(300):
        os.link(clouds_of(project)[number % 5], clouds / f"{number:06d}.bin")
    out = tmp_path / "out"
    args = ("small.py", "small.pth", clouds, "--out", out, "--workers", 2)
    run = start(project, "infer", *args)
    next(until_some(run, out, 10))
    run.send_signal(signal.SIGKILL)
    finish(run, -signal.SIGKILL)
    before = results(out)
    assert len(before) < 300
    finish(start(project, "infer", *args))
    assert len(results(out)) == 300
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 300
