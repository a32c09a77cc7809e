"""Runs of the command that are told to stop: they save, exit with 75, and the same command resumes at that step.

Signals go to the process group of a command that has started a local Ray: its daemons survive, the run saves.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kit.groups import CommandGroup
from tests.kit.runs import Run, assert_same_weights, finish, iterations_logged, read_reached, starts, write_config

pytestmark = pytest.mark.ray
SLOW = {"type": "Slow", "seconds": 0.1}


def slow(number: signal.Signals) -> Any:
    return pytest.param(number, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks without Ray, which end in the weights of two workers on it."""
    config = write_config(tmp_path_factory.mktemp("whole"))
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "raydet3d.train"]
    ranks = CommandGroup([*words, config, "--work-dir", config.parent / "work"], config.parent)
    assert ranks.wait(120) == 0, ranks.text()
    return config.parent / "work"


@pytest.mark.parametrize("number", [signal.SIGTERM, *map(slow, (signal.SIGUSR1, signal.SIGINT))], ids=lambda n: n.name)
def test_signal_to_the_group_saves_and_the_same_command_resumes(
    number: signal.Signals, undisturbed: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, SLOW, loaders=1)
    work_dir = tmp_path / "work"
    run = CommandGroup(["-m", "raydet3d.train", config, "--work-dir", work_dir, "--workers", 2], tmp_path)
    try:
        run.until(lambda: (read_reached(work_dir) or 0) >= 6, timeout_s=180)
        assert not run.members(), "Ray's daemons are in the command's group"
        run.signal_group(number)
        assert run.wait(30) == (130 if number is signal.SIGINT else 75), run.text()
    finally:
        run.close()
    at = json.loads((work_dir / "starts.jsonl").read_text().splitlines()[0])
    stop = next(work_dir.glob("stop_iter_*.pth"))
    iteration = int(stop.stem.rpartition("_")[2])
    assert f"Stopped ({number.name}) after iteration {iteration}: " in run.text()
    again = finish(config, "--workers", 2)
    first, second = starts(work_dir)
    assert (at["from"], first["redone"]) == (0, 0)
    assert (second["from"], second["redone"]) == (iteration, 0)
    done = [json.loads(line)[0] for line in (tmp_path / "samples" / "rank0.jsonl").read_text().splitlines()]
    assert done == list(range(36))  # not one iteration twice
    logged = iterations_logged(run.text()) + iterations_logged(again.text())
    assert logged == sorted(logged)
    assert_same_weights(work_dir, undisturbed, 36)
    assert not list(work_dir.glob("stop_*"))  # it has served
    third = finish(config, "--workers", 2, timeout_s=30)
    assert "finished after iteration 36: nothing to do" in third.text()


@pytest.mark.slow
def test_time_limit_saves_and_exits_with_75(undisturbed: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, {"type": "Slow", "seconds": 0.4})
    first = finish(config, "--workers", 2, "--ray", "time_limit_s=22", code=75)
    assert "Stopped (time limit)" in first.text()
    finish(config, "--workers", 2)
    assert_same_weights(first.work_dir, undisturbed, 36)


@pytest.mark.slow
def test_sigusr1_stops_within_a_validation_without_ray(tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW)
    run = Run(config, "--workers", 0)
    run.until(run.reached(5))
    run.signal(signal.SIGUSR1)
    assert run.wait(30) == 75
    assert "Stopped (SIGUSR1)" in run.text()
    finish(config, "--workers", 0)


@pytest.mark.slow
def test_second_run_in_a_busy_work_dir_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW, epochs=40)
    run = Run(config, "--workers", 0)
    run.until(run.reached(3))
    second = finish(config, "--workers", 0, code=2)
    assert "another run is active there; wait for its end, or choose another --work-dir" in second.text()
    run.signal(signal.SIGKILL)
    run.wait()
    again = Run(config, "--workers", 0)  # the lock is gone with whoever had it
    again.until(lambda: len(starts(again.work_dir)) == 2)
    again.signal(signal.SIGTERM)
    assert again.wait() == 75
    assert not (run.work_dir / ".lock").exists()


@pytest.mark.slow
def test_time_limit_without_ray(tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW, epochs=40)
    assert "Stopped (time limit)" in finish(config, "--workers", 0, "--ray", "time_limit_s=8", code=75).text()
