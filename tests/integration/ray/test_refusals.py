"""What a real cluster does not have is refused before a worker starts, within 10 s and with the numbers in the line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydet3d.errors import InputError
from raydet3d.launch.preflight import _visit
from raydet3d.launch.ray_options import RayOptions

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with two (logical) GPUs each."""
    from ray.cluster_utils import Cluster

    from raydet3d.launch.cluster import ray

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=2, num_gpus=2, labels={"zone": "b"})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()
    made.shutdown()


def refused(work_dir: Path, **options: Any) -> str:
    from raydet3d.launch.cluster import connect

    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        connect(RayOptions(cpus_per_worker=0.5, **options), work_dir)
    assert time.monotonic() - began < 10
    return str(caught.value)


def test_too_many_gpus_are_refused(cluster: Any, tmp_path: Path) -> None:
    text = refused(tmp_path, num_workers=8, gpus_per_worker=1)
    assert "asked for 8 workers with 1 GPU each (8 GPUs), the cluster has 4; use --workers 4" in text


def test_resources_held_by_others_are_not_free(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(num_gpus=2, num_cpus=0)
    class Other:
        def there(self) -> bool:
            return True

    other = Other.remote()
    assert cluster.get(other.there.remote())
    text = refused(tmp_path, num_workers=4, gpus_per_worker=1)
    assert "the cluster has 2 free, others hold 2; use --workers 2" in text
    assert "wait for it with ray.resource_timeout_s=SECONDS" in text
    cluster.kill(other)
    from raydet3d.launch.cluster import connect

    # What was held is given back a moment later: that is waited for.
    cluster = connect(RayOptions(num_workers=4, gpus_per_worker=1, cpus_per_worker=0.5), tmp_path)
    assert (cluster.options.num_workers, cluster.is_ours) == (4, False)


def test_unsatisfiable_placement_and_labels_are_refused(cluster: Any, tmp_path: Path) -> None:
    text = refused(tmp_path, num_workers=3, gpus_per_worker=1, placement_strategy="STRICT_PACK")
    assert "its nodes have room for 2 of such workers; use --workers 2" in text
    text = refused(tmp_path, num_workers=3, gpus_per_worker=1, label_selector={"zone": "b"})
    assert "label_selector {'zone': 'b'}" in text
    assert "room for 2 of such workers" in text


def test_default_takes_all_gpus(cluster: Any, tmp_path: Path) -> None:
    from raydet3d.launch.cluster import connect

    options = connect(RayOptions(cpus_per_worker=0.5), tmp_path).options
    assert (options.num_workers, options.gpus_per_worker) == (4, 1)
    assert list(tmp_path.iterdir()) == []  # each node has read and written here, and left nothing


def test_node_without_the_work_dir_is_named(tmp_path: Path) -> None:
    # All nodes of this cluster are one machine, so what a node does is asked of it directly.
    token = tmp_path / ".seen-1"
    assert "is not the one that was written to here (No such file" in str(_visit(str(token)))
    token.write_text("of another run")
    assert _visit(str(token)) == "is not the one that was written to here"
    token.write_text(token.name)
    assert _visit(str(token)) is None


def test_nodes_of_the_autoscaler_count(cluster: Any, tmp_path: Path) -> None:
    # The autoscaler tells the cluster which nodes it may bring; here its message is sent in its place.
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    from raydet3d.launch.cluster import connect

    group = NodeGroupConfig(name="cpu", resources={"CPU": 4, "lidar": 2}, min_count=0, max_count=3)
    client = cluster._raylet.GcsClient(address=cluster.get_runtime_context().gcs_address)
    client.report_cluster_config(ClusterConfig(node_group_configs=[group]).SerializeToString())
    try:
        options = {"gpus_per_worker": 0, "resources_per_worker": {"lidar": 1}}
        assert connect(RayOptions(num_workers=6, **options), tmp_path).wait_s == 1800
        with pytest.raises(InputError, match=r"asked for 7 workers .* is room for 6; use --workers 6"):
            connect(RayOptions(num_workers=7, **options), tmp_path)
    finally:
        client.report_cluster_config(ClusterConfig().SerializeToString())
