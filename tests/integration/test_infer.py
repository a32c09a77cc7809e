"""The commands infer, publish and evaluate on saved predictions, as processes: stopped, killed, and with bad files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raydet3d.config import Config
from raydet3d.runtime.infer_files import CloudFile, FileInferencer, InferJob
from tests.kit.runs import PATIENCE, ROOT
from tests.kit.small_detector import clouds_of, write_project


def start(cwd: Path, name: str, *args: object) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"raydet3d.{name}", *map(str, args)]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = run.communicate(timeout=240 * PATIENCE)
    assert run.returncode == code, out[-3000:] + err[-3000:]
    return out, err


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, a checkpoint, and a folder of clouds."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(scope="module")
def many(project: Path) -> Path:
    return copies(project, 120)


def copies(project: Path, count: int) -> Path:
    """A folder of so many clouds."""
    folder = project / f"clouds_{count}"
    folder.mkdir(exist_ok=True)
    clouds = clouds_of(project)
    for number in range(count):
        shutil.copy(clouds[number % len(clouds)], folder / f"{number:06d}.bin")
    return folder


def results(out: Path) -> dict[str, int]:
    """Names of the finished results with their times of change."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "preds").glob("[!.]*.json")}


def until_some(run: subprocess.Popen[str], out: Path, count: int) -> Iterator[None]:
    deadline = time.monotonic() + 120 * PATIENCE
    while len(results(out)) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_inference_goes_on_where_it_was(
    project: Path, many: Path, tmp_path: Path, number: signal.Signals
) -> None:
    args = ("small.py", "small.pth", many, "--out", tmp_path / "out")
    run = start(project, "infer", *args)
    next(until_some(run, tmp_path / "out", 10))
    run.send_signal(number)
    finish(run, 75 if number == signal.SIGTERM else -number)
    before = results(tmp_path / "out")
    assert 10 <= len(before) < 120
    out, _ = finish(start(project, "infer", *args))
    after = results(tmp_path / "out")
    assert len(after) == 120
    assert {name: after[name] for name in before} == before
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [Path(line["file"]).name for line in lines] == [f"{index:06d}.bin" for index in range(120)]
    assert all(line["scores_3d"] for line in lines)
    assert out.splitlines()[-1] == f"Predictions: {tmp_path / 'out' / 'predictions.jsonl'}"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]


def test_bad_files_are_named_last_and_tried_again(project: Path, tmp_path: Path) -> None:
    for cloud in clouds_of(project)[:3]:
        shutil.copy(cloud, tmp_path)
    torn = sorted(tmp_path.glob("*.bin"))[1]
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-3])
    args = ("small.py", "small.pth", tmp_path, "--out", tmp_path / "out", "--batch-size", 2, "--kitti")
    out, _ = finish(start(project, "infer", *args), 1)
    *_, title, last = out.splitlines()
    assert title.startswith("1 of 3 clouds failed")
    assert str(torn) in last
    assert str(len(whole) - 3) in last
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert ["error" in line for line in lines] == [False, True, False]
    torn.write_bytes(whole)
    finish(start(project, "infer", *args))
    assert len(list((tmp_path / "out" / "kitti").glob("*.txt"))) == 3


def test_publish_then_infer_without_the_config(project: Path, tmp_path: Path) -> None:
    out, _ = finish(start(project, "publish", "small.pth", tmp_path / "mine"))
    (file,) = tmp_path.glob("mine-????????.pth")
    assert str(file) in out
    out, _ = finish(start(project, "publish", "small.pth", tmp_path / "again", "--json"))
    (again,) = tmp_path.glob("again-????????.pth")
    assert json.loads(out) == {"file": str(again), "bytes": again.stat().st_size, "averaged": False}
    cloud = clouds_of(project)[0]
    pictures = tmp_path / "pictures"
    finish(start(project, "infer", file, cloud, "--out", tmp_path / "a", "--show-dir", pictures))
    finish(start(project, "infer", "small.py", "small.pth", cloud, "--out", tmp_path / "b"))
    one, other = ((tmp_path / name / "preds" / f"{cloud.stem}.json").read_bytes() for name in "ab")
    assert one == other
    assert (pictures / f"{cloud.stem}.png").is_file()


def test_bad_input_is_one_line(project: Path, tmp_path: Path) -> None:
    cloud = clouds_of(project)[0]
    state = torch.load(project / "small.pth", weights_only=True)
    torch.save({**state, "state_dict": {"other.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    torch.save({"state_dict": state["state_dict"]}, tmp_path / "bare.pth")
    for args, part in (
        (("small.py", tmp_path / "other.pth", cloud), "other.pth does not fit the model"),
        (("small.py", "small.pth", "nothing/*.bin"), "nothing/*.bin"),
        ((tmp_path / "bare.pth", cloud), "name the config file as well"),
        (("small.py", "small.pth", cloud, "--tta"), "needs tta_model"),
    ):
        out, err = finish(start(project, "infer", *args, "--out", tmp_path / "out"), 2)
        (line,) = err.splitlines()
        assert line.startswith("raydet3d: error: ")
        assert part in line
        assert not out


def test_evaluate_saves_predictions_and_scores_them_again(project: Path, tmp_path: Path) -> None:
    saved = tmp_path / "found.npz"
    first, _ = finish(start(project, "evaluate", "small.py", "small.pth", "--save-predictions", saved))
    again, _ = finish(start(project, "evaluate", "small.py", "--predictions", saved, "--out", tmp_path / "text"))
    scores, same = (
        [line for line in text.splitlines() if "AP" in line and " - raydet3d - " not in line] for text in (first, again)
    )
    assert len(scores) > 20
    assert same == scores
    assert len(list((tmp_path / "text").rglob("*.txt"))) == 5
    for args in (("small.py",), ("small.py", "small.pth", "--predictions", saved)):
        finish(start(project, "evaluate", *args), 2)


def memory() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_files(project: Path, tmp_path: Path, count: int) -> None:
    clouds = clouds_of(project)
    files = [CloudFile(str(clouds[number % len(clouds)]), f"{number:06d}") for number in range(count)]
    cfg = Config.fromfile(project / "small.py").to_dict()
    inferencer = FileInferencer(
        InferJob(cfg=cfg, checkpoint=str(project / "small.pth"), out=str(tmp_path), device="cpu", kitti=True)
    )
    seen = []
    for number, file in enumerate(files):
        assert not inferencer.run([file])[0].error
        if number % 50 == 49:
            seen.append(memory())
    assert seen[-1] - seen[1] < 10, seen
