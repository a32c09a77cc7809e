"""Run a training or a test on Ray workers: checks go on while the cluster is connected."""

from __future__ import annotations

from collections.abc import Callable

from raydet3d.launch.cluster import ConnectThread
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.signals import StopRequest
from raydet3d.run_status import RunResult


def run_on_ray(
    spec: RunSpec, options: RayOptions, request: StopRequest, *, work_dir: str, check: Callable[[], None]
) -> RunResult:
    """Run on Ray workers.

    Connecting takes seconds, and so do importing PyTorch and checking the data: they overlap.

    Args:
        spec: The run.
        options: What it asks of Ray.
        request: Whether this process is asked to stop.
        work_dir: Folder or URI for Ray's own files.
        check: Checks what the run needs, before the first worker starts.

    Returns:
        The result of rank 0.
    """
    connecting = ConnectThread(options, work_dir)
    connecting.start()
    try:
        check()
        from raydet3d.launch.retry_loop import fit

        cluster = connecting.wait()
        request.listen()
        request.trains = True
        return fit(spec, options, work_dir=work_dir, request=request, cluster=cluster)
    finally:
        connecting.close()
