"""A notice of the metadata service drains the node, as Ray's own state says; the watcher is a process of its own."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.kit.metadata_service import metadata_service

SCRIPT = Path(__file__).resolve().parents[3] / "cluster" / "drain_on_notice.sh"


@pytest.mark.ray
@pytest.mark.slow
def test_a_notice_drains_the_node() -> None:
    import ray
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    @ray.remote(num_cpus=1)
    class Busy:
        def here(self) -> bool:
            return True

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    watcher = None
    try:
        with metadata_service("gcp") as service:
            node = cluster.add_node(num_cpus=1)
            ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
            busy = Busy.remote()  # an idle node is gone as soon as it is drained
            ray.get(busy.here.remote())
            command = ["bash", str(SCRIPT), "gcp", "--address", cluster.address, "--node-id", node.node_id]
            env = {**os.environ, "METADATA": service.address, "EVERY": "0.2"}
            watcher = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            deadline = time.monotonic() + 60
            while len(service.asked) < 4 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert watcher.poll() is None
            service.notice = True
            out, _ = watcher.communicate(timeout=60)
            assert watcher.returncode == 0, out
            draining = GcsClient(address=cluster.address).get_draining_nodes()
            assert list(draining) == [node.node_id]
            assert draining[node.node_id] / 1000 - time.time() == pytest.approx(25, abs=20)
    finally:
        if watcher is not None and watcher.poll() is None:
            watcher.kill()
        ray.shutdown()
        cluster.shutdown()
