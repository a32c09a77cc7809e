"""A notice of the metadata service drains the node, as Ray's own state says; the watcher is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.unit.launch.test_spot import Cloud, Handler

ROOT = Path(__file__).resolve().parents[3]


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
    server = Cloud(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    watcher = None
    try:
        node = cluster.add_node(num_cpus=1)
        ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
        busy = Busy.remote()  # an idle node is gone as soon as it is drained
        ray.get(busy.here.remote())
        command = [sys.executable, "-m", "raydet3d.launch.spot", "--address", cluster.address, "--every", "0.2"]
        command += ["--node-id", node.node_id, "--metadata", f"http://127.0.0.1:{server.server_port}"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        watcher = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(server.asked) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert watcher.poll() is None
        server.notice = True
        out, _ = watcher.communicate(timeout=30)
        assert watcher.returncode == 0, out
        assert f"node {node.node_id} is being drained" in out
        draining = GcsClient(address=cluster.address).get_draining_nodes()
        assert list(draining) == [node.node_id]
        assert draining[node.node_id] / 1000 - time.time() == pytest.approx(100, abs=30)
    finally:
        if watcher is not None and watcher.poll() is None:
            watcher.kill()
        server.shutdown()
        server.server_close()
        ray.shutdown()
        cluster.shutdown()
