"""Execute one try of a run: on Ray Train workers, or in one process that is used again for the next run."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import ray

from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.ray_report import DriverLinkHook, RayReportHook
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.signal_channel import (
    FIRST_STEP,
    GROUP,
    NODES,
    STOP,
    Report,
    SignalChannel,
    StopListener,
    WorkerLink,
    purge,
)
from raydet3d.launch.worker import quiet_file_loggers, run_worker
from raydet3d.run_status import RunResult

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train.torch import TorchConfig, TorchTrainer

    from raydet3d.hooks.base import Hook

MakeHooks = Callable[[WorkerLink], "Sequence[Hook]"]
"""Makes the further hooks of a worker; sent to the workers, so it is a function of a module or a partial of one."""
OnReport = Callable[[Report], bool]
"""Takes a report of the workers, in the driver, and returns whether the run continues."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One try of a run, as executors get it.

    Args:
        run: Name of the run, unique among the runs of this job.
        number: Which of its tries it is, from 0.
        spec: The run.
        options: What it asks of Ray.
        workers: Number of workers.
        placement_timeout_s: How long the workers may take to be placed.
        make_hooks: Makes further hooks of each worker.
        on_report: Takes the reports that these hooks send.
    """

    run: str
    number: int
    spec: RunSpec
    options: RayOptions
    workers: int
    placement_timeout_s: float
    make_hooks: MakeHooks | None = None
    on_report: OnReport | None = None

    @property
    def name(self) -> str:
        """The try's name, unique among those of this job."""
        return f"{self.run}-a{self.number}"


class Attempt(Protocol):
    """A try that was started."""

    def wait(self, timeout_s: float) -> bool:
        """Pass reports on, for a while or until the try ends, and return whether it has ended."""

    def stop(self, reason: str) -> None:
        """Ask the run to save and stop."""

    def first_step_time(self) -> float | None:
        """Return when the first step was done, in seconds of the epoch, or None."""

    def node_ids(self) -> list[str]:
        """Return the node of each worker."""

    def result(self) -> RunResult:
        """Return rank 0's result, or raise what the try ended with."""

    def close(self) -> None:
        """Free what the try holds in the cluster."""


class Executor(Protocol):
    """Starts tries.

    Attributes:
        is_placed: Whether the workers' place is reserved already, so that there is nothing to wait for.
    """

    is_placed: bool

    def start(self, one: Try) -> Attempt:
        """Start a try."""


# ------------------------------------------------------------------------------------------------ Ray Train workers


class TorchExecutor:
    """Runs each try as a `TorchTrainer` of its own.

    Args:
        storage: Folder or URI for Ray's own files of the tries.
    """

    is_placed = False

    def __init__(self, storage: str) -> None:
        self._storage = storage

    def start(self, one: Try) -> Attempt:
        """Start a try."""
        return _TorchAttempt(one, self._storage)


class _TorchAttempt:
    """A `TorchTrainer` in a thread: the caller's thread takes signals and looks after the cluster."""

    def __init__(self, one: Try, storage: str) -> None:
        self._try, self._storage = one, storage
        if one.number == 0:
            release(one.run)
        self._channel = SignalChannel(_channel_name(one.name))
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        # Ray reads them where the trainer starts; they are the same for all runs of a process.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(one.placement_timeout_s)
        os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(one.options.collective_timeout_s)
        self._thread = threading.Thread(target=self._fit, name="ray-fit", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._result = self._make_trainer().fit().return_value
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._error = error

    def _make_trainer(self) -> TorchTrainer:
        from ray import train
        from ray.train.torch import TorchTrainer

        one, options = self._try, self._try.options
        use_gpu = bool(options.gpus_per_worker)
        return TorchTrainer(
            partial(train_loop, one.spec, self._channel.name, one.make_hooks),
            torch_config=_torch_config(one.spec.cfg.get("env_cfg"), options, use_gpu),
            scaling_config=train.ScalingConfig(
                num_workers=one.workers,
                use_gpu=use_gpu,
                resources_per_worker=options.bundle,
                placement_strategy=options.placement_strategy,
                accelerator_type=options.accelerator_type,
                label_selector=dict(options.label_selector) or None,
            ),
            run_config=train.RunConfig(
                name=one.name,
                storage_path=self._storage,
                failure_config=train.FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
                worker_runtime_env=options.worker_runtime_env,
                logging_config=train.LoggingConfig(log_level="CRITICAL"),
            ),
        )

    def wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            self._thread.join(left if self._try.on_report is None else min(left, 0.05))
            self._pass_reports_on()
        return not self._thread.is_alive()

    def _pass_reports_on(self) -> None:
        if self._try.on_report is None:
            return
        with suppress(ray.exceptions.RayError):  # a head that does not answer for a moment
            if (report := self._channel.receive()) is not None:
                self._channel.answer(self._try.on_report(report))

    def stop(self, reason: str) -> None:
        self._channel.put(STOP, reason)

    def first_step_time(self) -> float | None:
        found = self._channel.get(FIRST_STEP)
        return None if found is None else float(found)

    def node_ids(self) -> list[str]:
        return self._channel.values(NODES)

    def result(self) -> RunResult:
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def close(self) -> None:
        _release(f"{self._channel.name}/")


def _torch_config(
    env_cfg: Mapping[str, Mapping[str, object]] | None, options: RayOptions, use_gpu: bool
) -> TorchConfig:
    """Describe how the ranks meet: by `env_cfg.dist_cfg`, with our timeout where it has none."""
    from ray.train.torch import TorchConfig

    from raydet3d.dist import group_options

    given = group_options((env_cfg or {}).get("dist_cfg"), cuda=use_gpu)
    timeout = given.get("timeout", timedelta(seconds=options.collective_timeout_s))
    return TorchConfig(backend=given["backend"], timeout_s=int(timeout.total_seconds()))


def _channel_name(name: str) -> str:
    return f"{ray.get_runtime_context().get_job_id()}/{name}"


def release(run: str) -> None:
    """Free what the tries of a run hold in the cluster, those whose driver was killed included.

    Without a dashboard Ray Train itself removes no placement group whose controller was killed.

    Args:
        run: Name of the run.
    """
    _release(_channel_name(f"{run}-a"))


def _release(prefix: str) -> None:
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for group in purge(prefix):
        with suppress(Exception):  # it is gone already
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


def train_loop(spec: RunSpec, channel_name: str, make_hooks: MakeHooks | None) -> RunResult | None:
    """Run on each worker of Ray Train; rank 0's return value is the run's result."""
    import ray.train.torch
    from ray.util import get_current_placement_group

    quiet_file_loggers(str(Path(ray.__file__).parent))
    channel = SignalChannel(channel_name)
    hooks = [RayReportHook()] if make_hooks is None else make_hooks(channel)
    is_main = ray.train.get_context().get_world_rank() == 0
    listener = None
    if is_main:
        listener = StopListener(channel)
        if (group := get_current_placement_group()) is not None:
            channel.put(GROUP, group.id.hex())
    try:
        result = run_worker(
            spec,
            device=ray.train.torch.get_device(),
            hooks=[DriverLinkHook(channel), *hooks],
            asked=lambda: listener.reason if listener is not None else None,
            is_main=is_main,
        )
    finally:
        if listener is not None:
            listener.close()
    return result if is_main else None


# ------------------------------------------------------------------------------------------------ a reused process


class ProcessExecutor:
    """Runs each try of a run with one worker in a process that is used again as long as it lives.

    The process is a Ray actor of this one's, placed in the placement group that this one belongs to, if any.

    Args:
        options: What a worker asks of Ray.
    """

    is_placed = True

    def __init__(self, options: RayOptions) -> None:
        self._bundle, self._runtime_env = options.bundle, options.worker_runtime_env
        self._process: ActorHandle | None = None

    def start(self, one: Try) -> Attempt:
        """Start a try."""
        if self._process is None:
            bundle = dict(self._bundle)
            actor = ray.remote(WorkerProcess).options(
                num_cpus=bundle.pop("CPU", 0),
                num_gpus=bundle.pop("GPU", 0),
                resources=bundle,
                max_concurrency=3,
                max_restarts=0,
                runtime_env=self._runtime_env or None,
            )
            self._process = actor.remote()
        return _ProcessAttempt(one, self._process, self._forget)

    def _forget(self) -> None:
        self._process = None


class _ProcessAttempt:
    """A run in a worker process; messages of the process wake the caller up."""

    def __init__(self, one: Try, process: ActorHandle, forget: Callable[[], None]) -> None:
        self._try, self._process, self._forget = one, process, forget
        self._keys: dict[str, str] = {}
        self._run = process.run.remote(one.name, one.spec, one.make_hooks)
        self._message = process.next_message.remote()

    def wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(deadline - time.monotonic(), 0)
            ready, _ = ray.wait([self._message, self._run], num_returns=1, timeout=left)
            if self._message in ready:
                try:
                    kind, content = ray.get(self._message)
                except ray.exceptions.RayError:
                    return True  # the process is dead; `result` raises how
                if kind == "end":
                    return True
                if kind == "report":
                    assert self._try.on_report is not None
                    self._process.answer.remote(self._try.on_report(content))
                else:
                    self._keys[kind] = content
                self._message = self._process.next_message.remote()
            elif ready:
                return True
            elif left <= 0:
                return False

    def stop(self, reason: str) -> None:
        self._process.stop.remote(self._try.name, reason)

    def first_step_time(self) -> float | None:
        return float(self._keys[FIRST_STEP]) if FIRST_STEP in self._keys else None

    def node_ids(self) -> list[str]:
        return [value for key, value in self._keys.items() if key.startswith(NODES)]

    def result(self) -> RunResult:
        try:
            found: RunResult = ray.get(self._run)
        except ray.exceptions.RayError as error:
            if not isinstance(error, ray.exceptions.RayTaskError):
                self._forget()
            raise
        return found

    def close(self) -> None:
        pass


class WorkerProcess:
    """The actor of a process that runs one run after the other."""

    def __init__(self) -> None:
        self._messages: queue.Queue[tuple[str, object]] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._stop = ("", "")  # try, reason

    def run(self, name: str, spec: RunSpec, make_hooks: MakeHooks | None) -> RunResult:
        """Train, and leave the process as it was before."""
        from raydet3d.launch.process_isolation import isolated

        try:
            spec.config()  # what the modules that it imports enter into the tables stays there
            with isolated():
                hooks = make_hooks(self) if make_hooks is not None else ()
                return run_worker(
                    spec,
                    hooks=[DriverLinkHook(self), *hooks],
                    asked=lambda: self._stop[1] if self._stop[0] == name else None,
                )
        finally:
            self._messages.put(("end", None))

    def next_message(self) -> tuple[str, object]:
        """Wait for the run's next message and return it."""
        return self._messages.get()

    def stop(self, name: str, reason: str) -> None:
        """Ask a try to save and stop."""
        self._stop = (name, reason)

    def answer(self, continues: bool) -> None:
        """Answer the report that was sent last."""
        self._answers.put(continues)

    def put(self, key: str, value: str) -> None:
        """Set a key; called by hooks of the run."""
        self._messages.put((key, value))

    def send(self, report: Report) -> bool:
        """Hand a report to the driver and return whether the run continues; called by hooks of the run."""
        self._messages.put(("report", report))
        return self._answers.get()
