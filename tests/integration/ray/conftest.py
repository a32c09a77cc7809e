"""One Ray for the tests of this folder that need none of their own: starting one takes longer than many tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def two_cpus() -> Iterator[None]:
    """A Ray that this process has joined."""
    from raydet3d.launch.cluster import join_or_start, ray

    join_or_start(dashboard=False, workers_print=False, num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def ray_address(two_cpus: None) -> dict[str, str]:
    """The environment with which a command joins that Ray."""
    from raydet3d.launch.cluster import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
