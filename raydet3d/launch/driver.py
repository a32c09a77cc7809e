"""A run on Ray: try after try, until it is done, is asked to stop, or has failed too often.

Each try is a ``TorchTrainer`` of its own, with a number of workers that there is room for, and goes on from the newest
whole checkpoint of our own store. Nothing that Ray keeps about a try is read by the next one: a damaged snapshot of
Ray's costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from raydet3d.checkpoint.storage import open_storage
from raydet3d.config import default_work_dir, is_uri
from raydet3d.dist import group_options
from raydet3d.errors import InputError
from raydet3d.launch.capacity import (
    Node,
    draining_nodes,
    excluding_own,
    max_placeable_workers,
    read_nodes,
    shared_evenly,
)
from raydet3d.launch.cluster import ClusterHandle, connect
from raydet3d.launch.failures import death_in, user_mistake, was_not_placed
from raydet3d.launch.hang_watchdog import read_stacks
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.ray_report import RayReportHook
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.signal_channel import FIRST_STEP, NODES, STOP, SignalChannel, StopListener
from raydet3d.launch.signals import Stopped, StopRequest
from raydet3d.launch.status_line import status_line
from raydet3d.launch.worker import quiet_file_loggers, run_worker
from raydet3d.log import close_logger, open_logger

LOST_NODE_TIMEOUT_S = 600.0  # how long to wait for resources once a run has begun
STABLE_S = 3.0  # room for fewer workers than before counts once it has stayed so for this long
UNPLACED = 5  # tries in a row that may find no place though there seemed to be room
LOOK_S = 0.2


def fit(
    plan: RunSpec,
    options: RayOptions,
    *,
    work_dir: Path | str,
    request: StopRequest | None = None,
    ground: ClusterHandle | None = None,
) -> dict[str, Any]:
    """Train on Ray workers.

    Joins the cluster that ``RAY_ADDRESS`` names (a Ray job has it set); else starts one on this machine and stops it at
    the end.

    Args:
        plan: The run.
        options: What it asks of the cluster.
        work_dir: The run's folder, or a URI; Ray's own files go to ``.ray`` in it.
        request: Whether this process is asked to stop.
        ground: The cluster, where it is open already; whoever has opened it closes it.

    Returns:
        Rank 0's result, with ``workers``, ``cpus`` and ``restarts`` added; of a run that was asked to stop,
        ``stopped``, ``iter`` and ``checkpoint``.

    Raises:
        InputError: The cluster has less than was asked for, or a worker found something that the user has to mend.
        ray.train.TrainingFailedError: The run failed.
    """
    given = ground
    ground = given or connect(options, work_dir)
    run = RetryLoop(plan, ground, work_dir, request or StopRequest())
    try:
        with status_line(plan.cfg.get("train_cfg")):
            result = run.until_done()
    finally:
        run.close()
        if given is None:
            ground.close()
    return {**result, "workers": run.workers, "cpus": ground.cpus, "restarts": run.restarts}


class RetryLoop:
    """The tries of one run.

    Args:
        plan: The run.
        ground: The cluster.
        work_dir: The run's folder, or a URI.
        request: Whether this process is asked to stop.
    """

    def __init__(self, plan: RunSpec, ground: ClusterHandle, work_dir: Path | str, request: StopRequest) -> None:
        self.options = ground.options
        self.workers = 0
        self.restarts = 0
        self._goal = 0  # workers that the next try should find room for
        self._unplaced = 0  # tries in a row whose workers found no place
        self._plan, self._ground, self._request = plan, ground, request
        given = self.options.storage
        digest = hashlib.sha256(str(work_dir).encode()).hexdigest()[:8]
        # In a folder of the user's, others have their files too: only what is surely this run's is ever removed.
        self._shelf, self._slot = (work_dir, ".ray") if given is None else (given, f"raydet3d-{digest}")
        self._log_dir = default_work_dir({"work_dir": str(work_dir)}, None) / plan.run_id
        self._wait_s = ground.wait_s
        self._placement_s = self.options.placement_timeout_s
        self._began = time.monotonic()
        self._ended = time.time()
        self._number = 0
        self._why = ""
        self._log = open_logger(f"driver-{plan.run_id}", self._log_dir / f"{plan.run_id}.log")

    def close(self) -> None:
        """Give the log file back."""
        close_logger(self._log)

    def until_done(self) -> dict[str, Any]:
        """Try until there is a result."""
        self._forget_earlier()
        while True:
            self.workers = self._goal = self._await_room()
            began = time.time()
            result, error = self._try_once()
            self._number += 1
            self._ended = time.time()
            if error is not None:
                self._why = self._classify_failure(error, began)
                if self._why != "no room":
                    self.restarts += 1
                    self._wait_s = max(self._wait_s, self._lost_node_timeout)
                    self._log.warning(
                        "%s; starting again from the newest checkpoint, restart %d of %d",
                        self._why,
                        self.restarts,
                        self.options.max_failures,
                    )
                continue
            assert result is not None
            reason = result.get("stopped")
            if reason not in ("resize", "drain"):
                self._clear()
                return result
            self._why = {"resize": "room for more workers", "drain": "a node is taken away"}[reason]
            self._wait_s = self._lost_node_timeout
            self._log.info("%s: going on after iteration %s", self._why, result["iter"])
            if reason == "drain" and not self._can_go_on():
                return result

    # -- before a try -------------------------------------------------------------------------------------------

    @property
    def _lost_node_timeout(self) -> float:
        given = self.options.resource_timeout_s
        return LOST_NODE_TIMEOUT_S if given is None else given

    def _forget_earlier(self) -> None:
        """Drop what earlier starts have left of Ray's own state: it may be damaged, and nobody reads it."""
        left = [] if is_uri(str(self._shelf)) else sorted(p.name for p in Path(self._shelf, self._slot).glob("*"))
        if left:
            self._log.info(
                "Ray's own files of an earlier start (%s) are dropped: checkpoints are the run's own, and a new "
                "generation begins",
                ", ".join(left[:3]) + (", ..." if len(left) > 3 else ""),
            )
        self._clear()

    def _clear(self) -> None:
        """Drop Ray's own files of this run."""
        with suppress(OSError, InputError):
            open_storage(str(self._shelf)).remove(self._slot)

    def _can_go_on(self) -> bool:
        """Whether the cluster without its draining nodes has room, or has something that may bring it."""
        if ray.get_runtime_context().get_node_id() in draining_nodes():
            return False
        return max_placeable_workers(self.options, read_nodes()) >= self.options.least or self._ground.wait_s > 0

    def _await_room(self) -> int:
        """How many workers to start: as many as there is room for, within what was asked for.

        Raises:
            Stopped: This process was asked to stop meanwhile, or there was no room any more.
            InputError: There was no room for the least number in time.
        """
        least, most = self.options.least, self.options.most
        deadline = time.monotonic() + max(self._wait_s, STABLE_S + 1)
        wanted = self._goal or most  # what was there before is about to be free again
        stable, since, told = -1, time.monotonic(), False
        while True:
            self._leave_if_asked()
            now, fits = time.monotonic(), self._room(read_nodes())
            if fits >= wanted:
                return fits
            if fits != stable:
                stable, since = fits, now
            if fits >= least and now - since >= STABLE_S:
                return fits
            if now > deadline:
                message = (
                    f"{self._ground.where} had room for {fits} of {least} workers after {self._wait_s:.0f} s of "
                    "waiting; the same command goes on once there is more, ray.resource_timeout_s=SECONDS waits longer"
                )
                if self._number == 0:
                    raise InputError(message)
                self._log.error("%s", message)
                raise Stopped("no room")
            if not told and now - since > STABLE_S:
                told = True
                self._log.info(
                    "waiting for room for %d workers (there is some for %d), %.0f s at most", least, fits, self._wait_s
                )
            time.sleep(LOOK_S)

    def _room(self, nodes: Sequence[Node]) -> int:
        """How many workers of those that may be there is room for, and an iteration can be shared by."""
        fits, slots = min(max_placeable_workers(self.options, nodes), self.options.most), self.options.slots
        return shared_evenly(fits, slots) if slots and asks_others(self._plan.cfg) else fits

    def _leave_if_asked(self) -> None:
        if (reason := self._asked()) is not None:
            raise Stopped(reason)

    def _asked(self) -> str | None:
        """Why the run is to stop for good, if it is."""
        if self._request.reason is not None:
            return self._request.reason
        limit = self.options.time_limit_s
        return "time limit" if limit and time.monotonic() - self._began > limit else None

    # -- a try --------------------------------------------------------------------------------------------------

    def _try_once(self) -> tuple[dict[str, Any] | None, BaseException | None]:
        """One trainer's life: its result or its error."""
        name = f"{self._plan.run_id}-a{self._number}"
        channel = SignalChannel(f"{ray.get_runtime_context().get_job_id()}/{name}")
        outcome: list[Any] = [None, None]

        def fit() -> None:
            try:
                outcome[0] = self._make_trainer(name, channel.name).fit().return_value
            except BaseException as error:  # noqa: BLE001 - judged by the caller
                outcome[1] = error

        # In a thread: this one takes signals, and looks after the cluster.
        thread = threading.Thread(target=fit, name="ray-fit", daemon=True)
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(self._placement_s)
        os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(self.options.collective_timeout_s)
        started = time.time()
        thread.start()
        try:
            self._look_after(thread, channel, started)
        finally:
            channel.close()
        return outcome[0], outcome[1]

    def _look_after(self, thread: threading.Thread, channel: SignalChannel, started: float) -> None:
        """Until the try ends: pass on that it is to stop, and find out whether it is."""
        told = False
        has_stepped = False
        more = 0  # looks in a row that found room for more workers
        word = Interval(1.0)
        drain, resize = Interval(self.options.drain_poll_s), Interval(self.options.resize_interval_s)
        while thread.is_alive():
            thread.join(LOOK_S)
            reason = self._asked()
            with suppress(ray.exceptions.RayError):  # a head that does not answer for a moment
                if not has_stepped and word.is_due():
                    has_stepped = self._hear_first_step(channel, started)
                if reason is None and drain.is_due():
                    mine = {*channel.values(NODES), ray.get_runtime_context().get_node_id()}
                    reason = "drain" if draining_nodes() & mine else None
                if reason is None and has_stepped and self.workers < self.options.most and resize.is_due():
                    fits = self._room(excluding_own(read_nodes(), channel.values(NODES), self.options))
                    more = more + 1 if fits > self.workers else 0
                    if more == 1:  # a resource that shows up for a moment is no reason to start again: look twice
                        resize.due_within(2.0)
                    elif more > 1:
                        reason, self._goal = "resize", fits
            if reason is not None and not told:
                channel.put(STOP, reason)
                told = True

    def _hear_first_step(self, channel: SignalChannel, started: float) -> bool:
        """Whether the first step was done; the next start may take twice as long as this one took."""
        word = channel.get(FIRST_STEP)
        if word is None:
            return False
        self._unplaced = 0
        took = float(word) - started
        if self.options.start_timeout_s is None:
            self._placement_s = max(self.options.placement_timeout_s, 2 * took)
        if self._number:
            waited = float(word) - self._ended
            self._log.info("first step %.1f s after the last try ended, with %d workers", waited, self.workers)
        return True

    def _make_trainer(self, name: str, channel: str) -> TorchTrainer:
        options, plan = self.options, self._plan
        use_gpu = bool(options.gpus_per_worker)
        plan = replace(
            plan,
            threads=options.threads_per_worker,
            retry=True,  # Ray may start a try's workers again by itself; of a first start nothing is there yet
            slots=options.slots,
            why=self._why,
            hang_timeout_s=options.hang_timeout_s,
            straggler_ratio=options.straggler_ratio,
        )
        return TorchTrainer(
            train_loop,
            train_loop_config={"plan": plan.to_dict(), "channel": channel},
            torch_config=self._group(use_gpu),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.workers,
                use_gpu=use_gpu,
                resources_per_worker=options.bundle,
                placement_strategy=options.placement_strategy,
                accelerator_type=options.accelerator_type,
                label_selector=dict(options.label_selector) or None,
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=f"{self._shelf}/{self._slot}",
                failure_config=ray.train.FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
                worker_runtime_env=self._runtime_env(),
                logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            ),
        )

    def _group(self, use_gpu: bool) -> TorchConfig:
        """How the ranks meet: as the config's ``env_cfg.dist_cfg`` says, by the timeout of ours where it says none."""
        given = group_options((self._plan.cfg.get("env_cfg") or {}).get("dist_cfg"), cuda=use_gpu)
        timeout = given.get("timeout", timedelta(seconds=self.options.collective_timeout_s))
        return TorchConfig(backend=given["backend"], timeout_s=int(timeout.total_seconds()))

    def _runtime_env(self) -> dict[str, Any]:
        env = dict(self.options.runtime_env)
        if self.options.env_vars:
            env["env_vars"] = {**env.get("env_vars", {}), **self.options.env_vars}
        return env

    # -- after a try --------------------------------------------------------------------------------------------

    def _classify_failure(self, error: BaseException, began: float) -> str:
        """Why a try ended, where it is worth another one.

        Raises:
            InputError: A worker found what the user has to mend.
            BaseException: The error itself, where trying again is of no use.
        """
        if (mistake := user_mistake(error)) is not None:
            raise InputError(mistake) from None
        if was_not_placed(error):
            self._log.warning("the workers were not placed within %.0f s", self._placement_s)
            self._unplaced += 1
            if self._unplaced > UNPLACED:
                raise error
            if self.options.start_timeout_s is None:
                self._placement_s *= 2
            self._wait_s = max(self._wait_s, self._lost_node_timeout)
            return "no room"
        death = death_in(error)
        if death is None or self.restarts >= self.options.max_failures:
            raise error
        self._leave_if_asked()
        if stacks := read_stacks(self._log_dir, since=began):
            self._log.error(
                "the run made no progress for %g s; each rank's stack (in full in %s):\n%s",
                self.options.hang_timeout_s,
                self._log_dir / "stacks",
                "\n".join(stacks),
            )
            return "the run hung"
        return f"a worker process died ({death})"


def asks_others(cfg: Mapping[str, Any]) -> bool:
    """Whether the model's passes ask other ranks (shards, SyncBatchNorm), so that all have to do equally many."""
    return bool(cfg.get("sync_bn")) or "FullySharded" in str((cfg.get("model_wrapper_cfg") or {}).get("type"))


class Interval:
    """Strikes at intervals.

    Args:
        interval_s: Seconds from one stroke to the next.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s

    def is_due(self) -> bool:
        """Whether it is time; if so, the next interval begins."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._interval_s
        return True

    def due_within(self, seconds: float) -> None:
        """Let the next stroke come after so many seconds, if it is not due before."""
        self._next = min(self._next, time.monotonic() + seconds)


def train_loop(config: dict[str, Any]) -> dict[str, Any] | None:
    """What Ray Train runs on each worker; rank 0's return value is the run's result."""
    import ray.train.torch

    quiet_file_loggers(str(Path(ray.__file__).parent))
    channel = SignalChannel(config["channel"])
    rank = ray.train.get_context().get_world_rank()
    listener = StopListener(channel) if rank == 0 else None
    try:
        result = run_worker(
            RunSpec(**config["plan"]),
            device=ray.train.torch.get_device(),
            hooks=[RayReportHook(channel)],
            asked=lambda: listener.reason if listener is not None else None,
        )
    finally:
        if listener is not None:
            listener.close()
    return result if rank == 0 else None
