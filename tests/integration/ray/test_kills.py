"""``kill -9`` of real processes: of workers at random steps, of the driver, of Ray's controller; and Ray's own files
damaged. Against the undisturbed run, bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.kit.runs import Run, assert_same_weights, finish, iterations_logged, starts, steps_that_count, write_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SLOW = {"type": "Slow", "seconds": 0.05}
# Workers of a driver that is dead live on for up to two seconds: by then they must not be through.
SLOWER = {"type": "Slow", "seconds": 0.25}
KILLS = int(os.environ.get("RAYDET3D_TEST_KILLS", "10"))


def end_of(workers: int) -> int:
    return {2: 36, 3: 24}[workers]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The work dir of the undisturbed run with a number of workers."""

    @cache
    def run(workers: int) -> Path:
        return finish(write_config(tmp_path_factory.mktemp(f"whole{workers}")), "--workers", workers).work_dir

    return run


def never_back_without_a_line(text: str) -> None:
    """Iterations in the log rise, or a line in between says that some are done again."""
    parts = text.split(" of this run")
    for part in parts:
        logged = iterations_logged(part)
        assert logged == sorted(logged)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.timeout(3600)
def test_killed_workers_end_in_the_weights_of_the_undisturbed_run(
    whole: Callable[[int], Path], tmp_path: Path, workers: int
) -> None:
    luck = random.Random(workers)
    deaths = sorted(luck.sample(range(1, end_of(workers)), KILLS))
    kills = [
        {"type": "KillAt", "rank": rank, "at": deaths[rank::workers], "folder": str(tmp_path / f"deaths{rank}")}
        for rank in range(workers)
    ]
    run = finish(
        write_config(tmp_path, SLOW, *kills), "--workers", workers, "--ray", f"max_failures={KILLS}", timeout_s=1100
    )
    assert sum(len(list(tmp_path.glob(f"deaths{rank}/*"))) for rank in range(workers)) == KILLS
    assert_same_weights(run.work_dir, whole(workers), end_of(workers))
    lines = starts(run.work_dir)
    assert len(lines) == KILLS + 1
    # Saved after every 4th iteration, written behind the training's back: 8 at most are lost with a death.
    for death, line in zip(deaths, lines[1:], strict=True):
        assert line["from"] + line["redone"] == death
        assert line["redone"] <= 8
    assert f"In all, {sum(line['redone'] for line in lines)} iterations were done twice." in run.text()
    never_back_without_a_line(run.text())
    assert steps_that_count(tmp_path / "samples") == steps_that_count(whole(workers).parent / "samples")


def test_killed_driver_resumes_with_the_same_command(whole: Callable[[int], Path], tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOWER)
    run = Run(config, "--workers", 2)
    run.until(run.reached(14))
    run.signal(signal.SIGKILL)
    run.wait()
    again = finish(config, "--workers", 2)
    assert "resuming it" in again.text()
    assert_same_weights(run.work_dir, whole(2), 36)
    never_back_without_a_line(run.text() + again.text())


def test_killed_controller_is_tried_again(whole: Callable[[int], Path], tmp_path: Path) -> None:
    run = Run(write_config(tmp_path, SLOW), "--workers", 2)
    run.until(run.reached(14))
    named = run.descendants("TrainController")
    assert len(named) == 1, named
    os.kill(named[0], signal.SIGKILL)
    assert run.wait() == 0, run.text()
    assert "restart 1 of 3" in run.text()
    assert_same_weights(run.work_dir, whole(2), 36)
    never_back_without_a_line(run.text())


def test_damaged_files_of_ray_do_not_block_a_start(whole: Callable[[int], Path], tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOWER, val_interval=1)
    run = Run(config, "--workers", 2)
    run.until(lambda: list(run.work_dir.glob(".ray/*")) and run.reached(16)())
    run.signal(signal.SIGKILL)
    run.wait()
    for path in run.work_dir.glob(".ray/**/*"):
        if path.is_file():
            path.write_bytes(b"\x80")
    (next(run.work_dir.glob(".ray/*")) / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [')
    before = json.loads((run.work_dir / "starts.jsonl").read_text().splitlines()[0])
    again = finish(config, "--workers", 2)
    assert again.text().count("Ray's own files of an earlier start") == 1
    assert starts(run.work_dir)[1]["from"] > before["from"]
    assert_same_weights(run.work_dir, whole(2), 36)
