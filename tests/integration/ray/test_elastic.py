"""Workers that come and go: 2 -> 1 -> 3 by hand, and nodes of a cluster that are killed, added and drained.

Against the undisturbed run: the same samples, augmented in the same way, in each iteration.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.runs import (
    PATIENCE,
    Run,
    assert_same_weights,
    finish,
    read_reached,
    starts,
    steps_that_count,
    write_config,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# Iterations of 3 slots x batch 2 = 6 samples; 48 samples make 8 an epoch.
TOY = {"epochs": 30, "val_interval": 30, "every": 10}
CYCLES = int(os.environ.get("RAYDET3D_TEST_CYCLES", "3"))  # nodes lost and added again


def slow(seconds: float) -> dict[str, Any]:
    return {"type": "Slow", "seconds": seconds}


@pytest.mark.timeout(900)
def test_same_samples_with_two_then_one_then_three_workers(tmp_path: Path) -> None:
    more = {"batch": 3, "loaders": 1, "dropout": 0.0}
    whole = finish(write_config(tmp_path / "whole", **more), "--workers", 2)
    config = write_config(tmp_path / "part", slow(0.2), **more)
    for workers, until in ((2, 5), (1, 14)):
        run = Run(config, "--workers", workers)
        run.until(run.reached(until))
        run.signal(signal.SIGTERM)
        assert run.wait() == 75, run.text()
    last = finish(config, "--workers", 3)
    assert [line["workers"] for line in starts(last.work_dir)] == [2, 1, 3]
    assert [line["redone"] for line in starts(last.work_dir)] == [0, 0, 0]
    assert "an iteration is the batches of 2 workers, shared by the 3 that are here" in last.text()
    assert steps_that_count(tmp_path / "part" / "samples") == steps_that_count(whole.folder / "samples")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of a head that does no work and of nodes with one CPU each, all on this machine."""
    from ray.cluster_utils import Cluster

    from raydet3d.launch import SETTINGS  # noqa: F401 - Ray's environment first

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


def elastic(config: Path, cluster: Any, workers: str, *options: str) -> Run:
    ray = ["cpus_per_worker=1", "resize_interval_s=3", "drain_poll_s=1", *options]
    return Run(config, "--workers", workers, "--ray", *ray, env={"RAY_ADDRESS": cluster.address})


def to_next_step(run: Run, before: int) -> float:
    """Seconds from now until a step of another start is done."""
    began = time.monotonic()
    run.until(lambda: len(starts(run.work_dir)) > before, 240)
    at = starts(run.work_dir)[-1]["from"]
    run.until(lambda: (read_reached(run.work_dir) or 0) > at, 240)
    return time.monotonic() - began


@pytest.mark.timeout(1500)
def test_run_shrinks_and_grows_with_killed_and_added_nodes(cluster: Any, tmp_path: Path, record_property: Any) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    config = write_config(tmp_path, slow(0.5), **TOY)
    run = elastic(config, cluster, "1-3")
    shrunk, grown = [], []
    try:
        run.until(run.reached(8), 240)
        for _ in range(CYCLES):
            count = len(starts(run.work_dir))
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            shrunk.append(to_next_step(run, count))
            assert starts(run.work_dir)[-1]["workers"] == 1
            count = len(starts(run.work_dir))
            nodes.append(cluster.add_node(num_cpus=1))
            grown.append(to_next_step(run, count))
            line = starts(run.work_dir)[-1]
            assert (line["workers"], line["redone"], line["why"]) == (2, 0, "room for more workers")
        assert run.wait(400) == 0, run.text()
    finally:
        run.close()
    print(f"\nfirst step after a lost node: {shrunk} s; after an added one: {grown} s")
    record_property("first_step_after_lost_node_s", shrunk)
    assert statistics.median(shrunk) < 45 * PATIENCE
    lines = starts(run.work_dir)
    # Saved after every 10th iteration: what a checkpoint had is never lost.
    assert all(line["redone"] < 20 for line in lines)
    whole = finish(write_config(tmp_path / "whole", trace=True, **TOY), "--workers", 3)
    assert steps_that_count(tmp_path / "samples") == steps_that_count(whole.folder / "samples")


@pytest.mark.timeout(900)
def test_two_workers_survive_a_killed_node(cluster: Any, tmp_path: Path) -> None:
    """Each worker has a node; one node is killed and a new one comes: the weights are those of the undisturbed run."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    whole = finish(write_config(tmp_path / "whole"), "--workers", 2)
    run = Run(
        write_config(tmp_path / "part", slow(0.3)), "--workers", 2, "--ray", "cpus_per_worker=1",
        env={"RAY_ADDRESS": cluster.address},
    )  # fmt: skip
    try:
        run.until(run.reached(14), 240)
        cluster.remove_node(nodes[0], allow_graceful=False)
        time.sleep(2)
        cluster.add_node(num_cpus=1)
        assert run.wait(400) == 0, run.text()
    finally:
        run.close()
    lines = starts(run.work_dir)
    assert [line["workers"] for line in lines] == [2, 2]
    assert lines[1]["redone"] <= 8  # saved after every 4th iteration, one write in flight
    assert_same_weights(run.work_dir, whole.work_dir, 36)


@pytest.mark.timeout(600)
def test_run_leaves_a_drained_node(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    run = elastic(write_config(tmp_path, slow(0.3), epochs=12, val_interval=12), cluster, "1-2")
    try:
        run.until(run.reached(6), 240)
        drain(cluster.address, nodes[-1].node_id)
        to_next_step(run, 1)
        line = starts(run.work_dir)[-1]
        assert (line["workers"], line["redone"], line["why"]) == (1, 0, "a node is taken away")
        drain(cluster.address, nodes[0].node_id)  # and now there is nowhere to go
        assert run.wait(120) == 75, run.text()
        assert "Stopped (drain)" in run.text()
    finally:
        run.close()


def drain(address: str, node: str) -> None:
    """Tell the cluster that a node is about to be taken away."""
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address, "--node-id", node,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test", "--deadline-remaining-seconds", "120",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
