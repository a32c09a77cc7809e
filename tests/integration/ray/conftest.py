"""One Ray for all tests of this folder: it takes longer to start than they run."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def two_cpus() -> Iterator[None]:
    from raydet3d.launch.retry_loop import ray  # by this way, since Ray reads its environment when it is imported

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
