"""Trials that are killed, hang, lose their node or are told to stop: the sweep ends in the undisturbed scores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydet3d.sweep.trial_store import Trial, TrialStore
from tests.kit.runs import PATIENCE
from tests.kit.sweeps import read_spy, write_config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[3]
Undisturbed = Callable[..., dict[str, list[float]]]


class Tune:
    """`python -m raydet3d.tune` as a process.

    Args:
        folder: Where the config, the sweep and its folder are.
        flags: Of the command.
        env: Further environment variables.
        source: Keys of the sweep.
    """

    def __init__(self, folder: Path, *flags: str, env: dict[str, str] | None = None, **source: Any) -> None:
        self.folder, self.out = folder, folder / "out"
        self.log = folder / f"log{len(list(folder.glob('log*.txt')))}.txt"
        if not (folder / "toy.py").exists():
            write_config(folder)
            given = {
                "metric": "AP", "mode": "max", "trials": 2, "concurrency": 2, "search": "grid", "keep": {"last": 2},
                "space": {"lr": [0.002, 0.01]}, "cfg_options": {"nap": 0.4, "epochs": 5}, **source,
            }  # fmt: skip
            (folder / "sweep.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
        command = [sys.executable, "-m", "raydet3d.tune", "toy.py", "sweep.yaml", "--work-dir", str(self.out)]
        kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **(env or {})}
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *flags], cwd=folder, env=kept, stdout=file, stderr=subprocess.STDOUT
            )

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def trials(self) -> list[Trial]:
        """The trials as their records say."""
        return TrialStore(self.out).load()[0]

    def wait(self, timeout_s: float = 400) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s * PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()

    def until(self, epoch: int, trial: str = "000") -> list[dict[str, Any]]:
        """Wait until a trial has trained so many epochs; what it has noted."""
        deadline = time.monotonic() + 300 * PATIENCE
        while True:
            with suppress(OSError, ValueError):
                spy = read_spy(self.out / "trials" / trial)
                if any(entry["what"] == "epoch" and entry["epoch"] >= epoch for entry in spy):
                    return spy
            assert self.process.poll() is None, self.text()[-4000:]
            assert time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.05)

    def scores(self) -> dict[str, list[float]]:
        """All scores of each trial."""
        return {trial.id: [report["score"] for report in trial.reports] for trial in self.trials()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The scores of the sweep that nothing disturbs, with one or two workers a trial."""

    @cache
    def run(workers: int = 1) -> dict[str, list[float]]:
        sweep = Tune(
            tmp_path_factory.mktemp("whole"),
            resources={"workers": workers, "cpus": 1 / workers},
            cfg_options={"nap": 0.0, "epochs": 5},
        )
        assert sweep.wait() == 0, sweep.text()[-4000:]
        return sweep.scores()

    return run


def begins(sweep: Tune, trial: str = "000") -> list[int]:
    """The epochs that a trial began from, one for each start of it."""
    return [entry["epoch"] for entry in read_spy(sweep.out / "trials" / trial) if entry["what"] == "begin"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_goes_on_after_its_worker_was_killed(undisturbed: Undisturbed, tmp_path: Path, workers: int) -> None:
    sweep = Tune(tmp_path, resources={"workers": workers, "cpus": 1 / workers})
    os.kill(sweep.until(2)[-1]["pid"], signal.SIGKILL)
    assert sweep.wait() == 0, sweep.text()[-4000:]
    assert [trial.state for trial in sweep.trials()] == ["done", "done"]
    assert sweep.scores() == undisturbed(workers)
    assert len(begins(sweep)) == 2
    assert begins(sweep)[1] >= 1
    assert "restart 1 of 3" in sweep.text()
    assert "(raylet)" not in sweep.text()


def test_a_trial_whose_worker_always_dies_fails_and_is_tried_again_on_demand(tmp_path: Path) -> None:
    source = {"space": {"mood": ["well", "killed"]}, "resources": {"max_failures": 1}, "cfg_options": {"epochs": 3}}
    sweep = Tune(tmp_path, **source)
    assert sweep.wait() == 1, sweep.text()[-4000:]
    assert {trial.setting["mood"]: trial.state for trial in sweep.trials()} == {"well": "done", "killed": "failed"}
    last = sweep.text().splitlines()[-2:]
    assert "Failed: trial" in last[0]
    assert "--retry-failed" in last[1]
    count = len(begins(sweep, "001"))
    assert count == 2
    assert Tune(tmp_path).wait() == 1  # it is not tried again
    assert len(begins(sweep, "001")) == count
    assert Tune(tmp_path, "--retry-failed").wait() == 1
    assert len(begins(sweep, "001")) > count


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 2)])
def test_a_signal_lets_all_trials_save_and_the_same_command_goes_on(
    undisturbed: Undisturbed, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    sweep = Tune(tmp_path, resources={"workers": workers, "cpus": 1 / workers})
    sweep.until(2)
    began = time.monotonic()
    sweep.process.send_signal(number)
    assert sweep.wait(60) == 75, sweep.text()[-4000:]
    assert time.monotonic() - began < 30 * PATIENCE
    assert "Traceback" not in sweep.text()
    assert {trial.state for trial in sweep.trials()} <= {"waiting", "done"}
    again = Tune(tmp_path)
    assert again.wait() == 0, again.text()[-4000:]
    assert again.scores() == undisturbed(workers)
    assert begins(again)[1] >= 1


def test_a_time_limit_lets_all_trials_save_and_the_same_command_goes_on(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    sweep = Tune(tmp_path, "--cfg-options", "ray.time_limit_s=12", cfg_options={"nap": 3.0, "epochs": 5})
    assert sweep.wait() == 75, sweep.text()[-4000:]
    assert "time limit" in sweep.text()
    assert {trial.state for trial in sweep.trials()} == {"waiting"}
    again = Tune(tmp_path)
    assert again.wait() == 0, again.text()[-4000:]
    assert again.scores() == undisturbed()


def test_a_trial_that_has_failed_goes_on_from_its_checkpoint_on_demand(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    sweep = Tune(tmp_path, cfg_options={"nap": 0.0, "epochs": 5, "mood": "raises once"})
    assert sweep.wait() == 1, sweep.text()[-4000:]
    assert {trial.state for trial in sweep.trials()} == {"failed"}
    assert all("a mistake in somebody's code" in trial.reason for trial in sweep.trials())
    again = Tune(tmp_path, "--retry-failed")
    assert again.wait() == 0, again.text()[-4000:]
    assert again.scores() == undisturbed()
    assert begins(again) == [0, 1]


def test_a_hung_trial_is_named_and_tried_again(tmp_path: Path) -> None:
    sweep = Tune(
        tmp_path,
        "--cfg-options",
        "ray.hang_timeout_s=10",
        space={"mood": ["well", "hangs"]},
        cfg_options={"epochs": 3},
    )
    assert sweep.wait() == 0, sweep.text()[-4000:]
    well, hung = (sweep.scores()[name] for name in ("000", "001"))
    assert hung == well
    assert "the run hung" in sweep.text()
    assert "in after_train_epoch" in (sweep.out / "trials" / "001" / "gen0" / "gen0.log").read_text()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of a head without CPUs, on this machine."""
    from ray.cluster_utils import Cluster

    from raydet3d.launch import SETTINGS  # noqa: F401 - Ray's environment first

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.mark.parametrize("workers", [1, 2])
def test_trials_go_on_after_their_node_was_killed(
    undisturbed: Undisturbed, cluster: Any, tmp_path: Path, workers: int
) -> None:
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    sweep = Tune(
        tmp_path,
        env={"RAY_ADDRESS": cluster.address},
        resources={"workers": workers, "cpus": 1 / workers},
        cfg_options={"nap": 1.0, "epochs": 5},
    )
    pid = sweep.until(2)[-1]["pid"]
    raylet = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    lost = next(node for node in nodes if node.all_processes["raylet"][0].process.pid == raylet)
    cluster.remove_node(lost, allow_graceful=False)
    assert sweep.wait() == 0, sweep.text()[-4000:]
    assert sweep.scores() == undisturbed(workers)
    assert begins(sweep)[1] >= 1


def test_records_name_what_was_tried_again(tmp_path: Path) -> None:
    sweep = Tune(tmp_path, trials=1, space={"lr": [0.01]})
    os.kill(sweep.until(2)[-1]["pid"], signal.SIGKILL)
    assert sweep.wait() == 0
    record = json.loads((sweep.out / "trials" / "000" / "trial.json").read_text())
    assert record["restarts"] == 1
