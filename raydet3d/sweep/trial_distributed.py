"""A trial of several processes: a ``TorchTrainer`` inside of the Tune function, with our checkpoints under both."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

import raydet3d.launch.driver  # noqa: F401 - first: it settles what Ray reads when it is imported
from raydet3d.files import locked
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.worker import run_worker
from raydet3d.sweep.trial_failures import reason_of
from raydet3d.sweep.trial_local import TuneReporter
from raydet3d.sweep.trial_spec import TrialHook, TrialSpec
from raydet3d.sweep.trial_store import read_json, write_json

GROUP = "placement_group.json"
STARTS, REPORTS = "starts", "reports"


def run_nested(config: dict[str, Any]) -> None:
    """Train one trial on Ray Train workers.

    The workers' rank 0 puts its reports into a queue and waits for the answer; this process hands them to Ray Tune.
    Told to stop, it answers so, and the workers leave their loop: nothing is left of them when the trial is over.

    Args:
        config: ``task`` is the trial.
    """
    from ray.util.queue import Empty, Queue

    task = TrialSpec(**config["task"])
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")  # as in run_inline
    with locked(task.folder / ".lock", timeout_s=120, busy=f"trial {task.trial} is run by another process"):
        reports, answers = Queue(actor_options={"num_cpus": 0}), Queue(actor_options={"num_cpus": 0})
        fitting = _Fitting(task, reports, answers)
        fitting.start()
        line = TuneReporter(task)
        try:
            while True:
                try:
                    kind, content = reports.get(timeout=0.1)
                except Empty:
                    if not fitting.is_alive():
                        break
                    continue
                if kind == STARTS:
                    write_json(task.folder / GROUP, content)
                else:
                    line.send(content)
                    answers.put(not line.is_cut)
        except SystemExit:
            with suppress(ray.exceptions.RayError):
                answers.put(False)
            fitting.join()
            raise
        finally:
            fitting.join()
            for queue in (reports, answers):
                queue.shutdown(force=True)
            release_group(task.folder)
    if fitting.error is not None:
        task.end("failed", reason_of(fitting.error))
        raise fitting.error
    task.end("done")
    if line.is_cut:
        sys.exit(0)


class _Fitting(threading.Thread):
    """``TorchTrainer.fit`` beside the thread that talks to Ray Tune."""

    def __init__(self, task: TrialSpec, reports: Any, answers: Any) -> None:
        super().__init__(name="fit", daemon=True)
        self.task = task
        self.queues = (reports, answers)
        self.error: BaseException | None = None

    def run(self) -> None:
        """Fit."""
        from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        task, use_gpu = self.task, self.task.gpus > 0
        resources = {"CPU": task.cpus, **({"GPU": task.gpus} if use_gpu else {})}
        storage = Path(task.sweep) / ".ray" / "train"
        try:
            TorchTrainer(
                nested_loop,
                train_loop_config={"task": task.to_dict(), "reports": self.queues[0], "answers": self.queues[1]},
                torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
                scaling_config=ScalingConfig(num_workers=task.workers, use_gpu=use_gpu, resources_per_worker=resources),
                run_config=RunConfig(
                    name=f"{task.trial}-gen{task.generation}",
                    storage_path=str(storage),
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=3, max_preemption_failures=0),
                    checkpoint_config=CheckpointConfig(num_to_keep=1),
                    logging_config=LoggingConfig(log_level="ERROR"),
                ),
            ).fit()
        except BaseException as error:  # noqa: BLE001 - the other thread raises it
            self.error = error


def nested_loop(config: dict[str, Any]) -> None:
    """What each worker of a nested trial runs."""
    import ray.train
    import ray.train.torch
    from ray.util import get_current_placement_group

    task, reports, answers = TrialSpec(**config["task"]), config["reports"], config["answers"]
    rank = ray.train.get_context().get_world_rank()
    if rank == 0:
        group = get_current_placement_group()
        reports.put((STARTS, {"id": group.id.hex() if group is not None else None}))

    def send(report: dict[str, Any]) -> bool:
        reports.put((REPORTS, report))
        return bool(answers.get())

    hook = TrialHook(task, send)
    try:
        run_worker(RunSpec(**task.plan), device=ray.train.torch.get_device(), hooks=[hook])
    finally:
        hook.close()


def release_group(folder: Path) -> None:
    """Free the placement group of a nested trial whose own end did not; there is none, most of the time.

    Args:
        folder: The trial's folder, where it has written down its group.
    """
    found = read_json(folder / GROUP)
    if found is None:
        return
    (folder / GROUP).unlink(missing_ok=True)
    if not found.get("id") or not ray.is_initialized():
        return
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with suppress(Exception):  # it is gone already
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(found["id"]))))
