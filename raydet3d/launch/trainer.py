"""A run on Ray: a cluster, a ``TorchTrainer``, and another try when a worker process dies."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from raydet3d.errors import InputError
from raydet3d.launch.console import status_line
from raydet3d.launch.options import RayOptions
from raydet3d.launch.preflight import settle
from raydet3d.launch.worker import Plan, work
from raydet3d.log import get_logger
from raydet3d.runtime.store.place import place_at

# Read by Ray when it is imported, or by the processes that it starts; what the user has set already stays.
SETTINGS = {
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # only rank 0 writes log lines: they need no "(RayTrainWorker pid=...)"
    "RAY_DEDUP_LOGS": "0",  # a training log repeats itself by nature
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # report() waits for one look of the controller
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else what workers print comes twice
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
import ray.train  # noqa: E402
from ray.train.torch import TorchConfig, TorchTrainer  # noqa: E402


def fit(plan: Plan, options: RayOptions, *, work_dir: Path | str) -> dict[str, Any]:
    """Train on Ray workers.

    Joins the cluster that ``RAY_ADDRESS`` names (a Ray job has it set); else starts one on this machine and stops it at
    the end.

    Args:
        plan: The run.
        options: What it asks of the cluster.
        work_dir: The run's folder, or a URI; Ray's own files go to ``.ray`` in it.

    Returns:
        Rank 0's result, with ``workers`` and ``cpus`` added.

    Raises:
        InputError: The cluster has less than was asked for, or a worker found something that the user has to mend.
        ray.train.TrainingFailedError: The run failed.
    """
    with cluster(options) as where:
        resources = ray.cluster_resources()
        options = settle(options, resources, where=where)
        with status_line(plan.cfg.get("train_cfg")):
            result = _try_until_done(plan, options, work_dir)
    return {**result, "workers": options.num_workers, "cpus": int(resources.get("CPU", 0))}


@contextmanager
def cluster(options: RayOptions) -> Iterator[str]:
    """A Ray to work on, for as long as the ``with`` block: joined, or started here.

    Yields:
        What to call it in messages.
    """
    if ray.is_initialized():
        yield "the cluster"
        return
    address = os.environ.get("RAY_ADDRESS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if address:
            ray.init(logging_level=logging.WARNING)
        else:
            # This machine's own processes: nobody drains a node of it, and nobody else has to be let in.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            ray.init(address="local", include_dashboard=options.dashboard, logging_level=logging.ERROR)
    try:
        yield "the cluster" if address else "this machine"
    finally:
        ray.shutdown()


def _try_until_done(plan: Plan, options: RayOptions, work_dir: Path | str) -> dict[str, Any]:
    """Fit, and fit again from the newest checkpoint when a worker process died, as often as the options allow."""
    storage = f"{work_dir}/.ray"
    for attempt in range(options.max_failures + 1):
        name = f"{plan.run_id}-a{attempt}"
        try:
            result = _fit_once(replace(plan, retry=attempt > 0), options, storage, name)
        except (ray.train.TrainingFailedError, ray.exceptions.ActorDiedError) as error:
            if (mistake := _user_mistake(error)) is not None:
                raise InputError(mistake) from None
            death = _death(error)
            if death is None or attempt == options.max_failures:
                raise
            get_logger().warning(
                "a worker process died (%s); starting again from the newest checkpoint, restart %d of %d",
                death,
                attempt + 1,
                options.max_failures,
            )
            continue
        with suppress(OSError):
            place_at(storage).remove(name)
        return {**result, "restarts": attempt}
    raise AssertionError("unreachable: the last attempt returns or raises")


def _fit_once(plan: Plan, options: RayOptions, storage: str, name: str) -> dict[str, Any]:
    use_gpu = bool(options.gpus_per_worker)
    resources = {"CPU": options.cpus_per_worker}
    if use_gpu:
        resources["GPU"] = float(options.gpus_per_worker or 0)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=replace(plan, threads=options.threads_per_worker).to_dict(),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=options.num_workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=0),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    result: dict[str, Any] = trainer.fit().return_value
    return result


def train_loop(config: dict[str, Any]) -> dict[str, Any] | None:
    """What Ray Train runs on each worker; rank 0's return value is the run's result."""
    import ray.train.torch

    from raydet3d.launch.report import RayReportHook

    _quiet_file_loggers()
    result = work(Plan(**config), device=ray.train.torch.get_device(), hooks=[RayReportHook()])
    return result if ray.train.get_context().get_world_rank() == 0 else None


def _quiet_file_loggers() -> None:
    """Ray names some loggers after their file, out of LoggingConfig's reach; one prints every metric of a report."""
    folder = str(Path(ray.__file__).parent)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(folder):
            logging.getLogger(name).setLevel(logging.WARNING)


# Where Ray's exceptions keep the one that they stand for; asked by name, so that a Ray without one of them still works.
WRAPPED = ("health_check_failure", "controller_failure", "_base_exc", "cause", "__cause__")


def _layers(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it wraps, outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        layer = waiting.pop(0)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        inner = [getattr(layer, name, None) for name in WRAPPED]
        inner += getattr(layer, "worker_failures", {}).values()
        waiting += [item for item in inner if isinstance(item, BaseException)]


def _death(error: BaseException) -> str | None:
    """How a process (not its code) ended, if that is what the failure is about."""
    ends = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    return next((type(layer).__name__ for layer in _layers(error) if isinstance(layer, ends)), None)


def _user_mistake(error: BaseException) -> str | None:
    """The sentence of an InputError that a worker raised."""
    for layer in _layers(error):
        if isinstance(layer, InputError):
            return str(layer)
    return None
