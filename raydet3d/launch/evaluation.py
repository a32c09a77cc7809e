"""Evaluate on Ray workers, by the driver of a training: a test is a run that saves nothing and resumes from nothing."""

from __future__ import annotations

from raydet3d.config import Config
from raydet3d.launch.cluster import ConnectThread
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunResult, RunSpec
from raydet3d.launch.signals import StopRequest


def evaluate_on_ray(cfg: Config, spec: RunSpec, options: RayOptions, request: StopRequest) -> RunResult:
    """Test on Ray workers, each with its share of the frames; rank 0 gathers the results and scores them once.

    A worker that dies starts the test again; a stop ends it.

    Args:
        cfg: The config.
        spec: The run, of task `test`.
        options: What it asks of Ray.
        request: Whether this process is asked to stop.

    Returns:
        The result of rank 0.
    """
    work_dir = f"{cfg['work_dir']}/{spec.run_id}"  # Ray's own files: the work dir's are those of a training
    connecting = ConnectThread(options, work_dir)
    connecting.start()
    try:
        check_parts(cfg)
        from raydet3d.launch.retry_loop import fit

        cluster = connecting.wait()
        request.listen()
        request.trains = True
        return fit(spec, options, work_dir=work_dir, request=request, cluster=cluster)
    finally:
        connecting.close()


def check_parts(cfg: Config) -> None:
    """Check what a test needs before anything is built, and generate data that are made on first use."""
    from raydet3d.runtime.consistency import warn_of_contradictions
    from raydet3d.runtime.loaders import check_data

    warn_of_contradictions(cfg)
    check_data(cfg)
