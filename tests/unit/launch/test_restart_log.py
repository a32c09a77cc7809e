"""The starts of a run and what stands in a work dir: written by real runs, read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet3d.checkpoint.log_upload import STARTS
from raydet3d.config import Config
from raydet3d.launch.restart_file import read_reached, read_starts
from raydet3d.launch.restart_log import RestartLogHook
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.work_dir_state import WorkDirState, inspect_work_dir
from raydet3d.launch.worker import run_worker
from tests.kit.runs import write_config


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return Config.fromfile(write_config(tmp_path, trace=False, epochs=1))


def train(cfg: Config, **more) -> dict:
    plan = RunSpec(
        cfg={**cfg.to_dict(), "work_dir": str(Path(cfg.filename).parent / "work")},
        filename=str(cfg.filename), run_id="start", **more,
    )  # fmt: skip
    return run_worker(plan)


def test_new_folder_has_no_run(tmp_path: Path, cfg: Config) -> None:
    assert inspect_work_dir(tmp_path / "work", cfg) == WorkDirState()
    assert read_reached(tmp_path / "work") is None


def test_finished_run_is_found_with_its_result(tmp_path: Path, cfg: Config) -> None:
    result = train(cfg)
    standing = inspect_work_dir(tmp_path / "work", cfg).active
    assert standing is not None
    assert (standing.finished, standing.reached, standing.saved, standing.is_same) == (True, 24, True, True)
    assert standing.result["last_checkpoint"] == result["last_checkpoint"]
    assert [line.get("from", "end") for line in read_starts(tmp_path / "work")] == [0, "end"]


def test_config_differences_are_listed_without_the_ray_section(tmp_path: Path, cfg: Config) -> None:
    train(cfg)
    cfg["ray"] = {"num_workers": 7}
    assert inspect_work_dir(tmp_path / "work", cfg).active.is_same
    cfg["optim_wrapper"]["optimizer"]["lr"] = 0.02
    cfg["find_unused_parameters"] = True
    standing = inspect_work_dir(tmp_path / "work", cfg).active
    assert standing.differences == [
        "optim_wrapper.optimizer.lr: 0.01 -> 0.02",
        "find_unused_parameters: absent -> True",
    ]
    assert "whose config differs (optim_wrapper" in standing.describe()


def test_drawn_seed_is_no_difference(tmp_path: Path, cfg: Config) -> None:
    drawn = Config({**cfg.to_dict(), "randomness": {"seed": 11}}, filename=cfg.filename)
    train(drawn)
    cfg["randomness"] = {}
    assert inspect_work_dir(tmp_path / "work", cfg).active.is_same


def test_torn_line_and_torn_count_are_ignored(tmp_path: Path, cfg: Config) -> None:
    train(cfg)
    work_dir = tmp_path / "work"
    with (work_dir / STARTS).open("a") as file:
        file.write('{"run": "toy", "fr')
    (work_dir / ".reached").write_text("")
    assert len(read_starts(work_dir)) == 2
    assert read_reached(work_dir) is None


def test_repeated_iterations_are_counted(tmp_path: Path, cfg: Config) -> None:
    train(cfg)
    work_dir = tmp_path / "work"
    (work_dir / "iter_24.pth.json").unlink()  # as if the run had died before this one was whole
    train(cfg, resume=True)
    line = [entry for entry in read_starts(work_dir) if "from" in entry][1]
    assert (line["from"], line["redone"]) == (20, 4)
    log = (work_dir / "start" / "start.log").read_text()
    assert (
        "restart 1 of this run: it resumes after iteration 20; it had come to 24, so 4 are done again. In all, 4" in log
    )


def test_noting_an_iteration_takes_less_than_200_microseconds(tmp_path: Path) -> None:
    import os
    import time

    hook = RestartLogHook()
    hook._reached = os.open(tmp_path / "r", os.O_WRONLY | os.O_CREAT)
    began = time.perf_counter()
    for i in range(2000):
        hook._write(i)
    assert (time.perf_counter() - began) / 2000 < 2e-4
    hook.close()


def test_active_run_is_the_one_with_checkpoints(tmp_path: Path, cfg: Config) -> None:
    """A new run was killed before its first checkpoint: the checkpoints in the work dir are the old one's."""
    train(cfg)
    with (tmp_path / "work" / STARTS).open("a") as file:
        file.write('{"run": "toy_other", "from": 0, "redone": 0}\n')
    standing = inspect_work_dir(tmp_path / "work", cfg).active
    assert standing is not None
    assert (standing.run, standing.finished, standing.saved) == ("toy_start", True, True)
