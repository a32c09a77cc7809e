"""Trials of two workers each: early stops leave nothing reserved, a population copies weights, and what they cost."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec
from raydet3d.sweep.results import read_results
from tests.integration.ray.test_sweep import check_copies, free_cpus, run
from tests.integration.ray.test_sweep_survival import go_on, prepare
from tests.kit.sweeps import read_spy, write_config
from tests.kit.toy import toy_cfg

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
TWO = {"workers": 2, "cpus": 0.9}


def placement_groups() -> list[str]:
    """States of the placement groups that are not removed."""
    from raydet3d.launch.retry_loop import ray

    table = ray.util.placement_group_table().values()
    return [group["state"] for group in table if group["state"] != "REMOVED"]


def test_twenty_trials_stopped_early_leave_nothing_reserved(two_cpus: None, tmp_path: Path) -> None:
    results = run(
        tmp_path,
        write_config(tmp_path),
        trials=21,
        resources=TWO,
        space={"lr": {"loguniform": [1e-6, 1e-2]}},
        stop=[{"above": 0, "after": 1}],
        cfg_options={"epochs": 3},
        keep={"trials": 1},
    )
    assert [trial.state for trial in results.trials] == ["stopped"] * 21
    for _ in range(150):
        if not placement_groups() and free_cpus() == 2:
            break
        time.sleep(0.1)
    assert placement_groups() == []
    assert free_cpus() == 2


def test_pbt_with_two_workers_a_trial_takes_turns_and_copies_weights(tmp_path: Path) -> None:
    prepare(
        tmp_path,
        trials=2,
        resources=TWO,
        concurrency=1,
        scheduler={
            "type": "pbt",
            "interval": 1,
            "quantile": 0.5,
            "mutate": {"lr": {"loguniform": [1e-3, 5e-2]}},
            "resample": 0.0,
        },
        space={"lr": {"choice": [1e-6, 1e-2]}},
        cfg_options={"epochs": 3},
    )
    _, trials = go_on(tmp_path)  # in a cluster of its own
    assert [trial.state for trial in trials] == ["done"] * 2
    assert check_copies(read_results(tmp_path / "out"), of=3, steps=6) >= 1


def test_a_failing_worker_of_two_gives_its_trial_the_reason(two_cpus: None, tmp_path: Path) -> None:
    results = run(
        tmp_path,
        write_config(tmp_path),
        trials=3,
        resources=TWO,
        search="grid",
        space={"mood": ["raises", "killed", "well"]},
        cfg_options={"epochs": 2},
    )
    reasons = {trial.setting["mood"]: (trial.state, trial.reason) for trial in results.trials}
    assert reasons["well"] == ("done", "")
    assert reasons["raises"] == ("failed", "ValueError: a mistake in somebody's code")
    assert reasons["killed"][0] == "failed"
    assert reasons["killed"][1].startswith("out of memory? its process was killed")


def test_a_trial_of_two_workers_takes_at_most_three_seconds_over_a_bare_trainer(two_cpus: None, tmp_path: Path) -> None:
    from raydet3d.launch.retry_loop import fit

    def bare(number: int) -> float:
        cfg = toy_cfg(tmp_path / f"bare{number}")
        plan = RunSpec(cfg=cfg.to_dict(), filename=None, run_id="start", threads=1)
        began = time.monotonic()
        fit(
            plan, RayOptions(num_workers=2, gpus_per_worker=0, cpus_per_worker=0.9), work_dir=tmp_path / f"bare{number}"
        )
        return time.monotonic() - began

    def nested() -> list[float]:
        results = run(
            tmp_path,
            write_config(tmp_path),
            trials=4,
            resources=TWO,
            concurrency=1,
            space={"lr": {"loguniform": [1e-4, 1e-2]}},
            cfg_options={"epochs": 3},
        )
        return [trial.seconds for trial in sorted(results.trials, key=lambda trial: trial.id)]

    bare(0)
    before, trials, after = bare(1), nested()[1:], bare(2)  # the first one starts the process that the others share
    print("bare", before, after, "nested", trials)
    assert statistics.median(trials) <= statistics.mean([before, after]) + 3


@pytest.mark.parametrize("count", [20])
def test_a_trial_of_one_worker_takes_at_most_a_second_over_its_training(
    two_cpus: None, tmp_path: Path, count: int
) -> None:
    began = time.monotonic()
    results: Any = run(
        tmp_path, write_config(tmp_path), trials=count, concurrency=1, space={"lr": {"loguniform": [1e-4, 1e-2]}}
    )
    wall = time.monotonic() - began
    first = min(results.trials, key=lambda trial: trial.id)
    training = [trial.reports[-1]["seconds"] for trial in results.trials]
    over = (sum(trial.seconds for trial in results.trials) - first.seconds - sum(training)) / (count - 1)
    pids = {read_spy(results.folder / "trials" / trial.id)[0]["pid"] for trial in results.trials}
    print(f"{over:.2f} s over its training each, {wall:.1f} s in all, {sum(training):.1f} s of them training")
    assert len(pids) == 1
    assert over <= 1
