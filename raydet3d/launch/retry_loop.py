"""The driver of a run on Ray: try, classify the failure, try again from the newest checkpoint.

`train` and every trial of a sweep are driven by the same loop; what differs is the executor of a try. Nothing that Ray
keeps about a try is read by the next one: a damaged snapshot of Ray's costs nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import ray

from raydet3d.checkpoint.storage import open_storage
from raydet3d.config import default_work_dir, is_uri
from raydet3d.errors import InputError, some_of
from raydet3d.launch.capacity import (
    Node,
    draining_nodes,
    excluding_own,
    max_placeable_workers,
    read_nodes,
    shared_evenly,
)
from raydet3d.launch.cluster import ClusterHandle, connect
from raydet3d.launch.executors import Attempt, Executor, MakeHooks, OnReport, TorchExecutor, Try
from raydet3d.launch.failures import process_death, user_mistake, was_not_placed
from raydet3d.launch.hang_watchdog import read_stacks
from raydet3d.launch.ray_console import divert_ray_lines
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.signals import Stopped, StopRequest
from raydet3d.launch.status_line import status_line
from raydet3d.log import close_logger, open_logger
from raydet3d.run_status import RunResult
from raydet3d.runtime.ddp import config_needs_all_ranks

LOST_NODE_TIMEOUT_S = 600.0  # how long to wait for resources once a run has begun
STABLE_S = 3.0  # room for fewer workers than before counts once it has stayed so for this long
MAX_UNPLACED = 5  # tries in a row that may find no place though there seemed to be room
POLL_S = 0.2


class StopSource(Protocol):
    """Holds the reason to stop a run, or None."""

    reason: str | None


def fit(
    spec: RunSpec,
    options: RayOptions,
    *,
    work_dir: Path | str,
    request: StopRequest | None = None,
    cluster: ClusterHandle | None = None,
) -> RunResult:
    """Train on Ray workers.

    Joins the cluster that `RAY_ADDRESS` names (a Ray job has it set); else starts one on this machine and stops it at
    the end.

    Args:
        spec: The run.
        options: What it asks of the cluster.
        work_dir: The run's folder, or a URI; Ray's own files go to `.ray` in it.
        request: Whether this process is asked to stop.
        cluster: A cluster that is connected already; the caller closes it.

    Returns:
        Rank 0's result, with `workers`, `cpus` and `restarts` added; of a run that was asked to stop, `stopped`,
        `iter` and `checkpoint`.

    Raises:
        InputError: The cluster has less than was asked for, or a worker found something that the user has to correct.
        ray.train.TrainingFailedError: The run failed.
    """
    given = cluster
    cluster = given or connect(options, work_dir)
    files = RayFiles(work_dir, cluster.options.storage)
    loop = RetryLoop(spec, cluster, TorchExecutor(files.location), request or StopRequest())
    try:
        if left := files.clear():  # they may be damaged, and nothing reads them
            loop.log.info(
                "removed Ray's own files of an earlier start (%s): a run resumes from its own checkpoints",
                some_of(left, 3),
            )
        with divert_ray_lines(loop.log_dir / "ray.log"), status_line(spec.cfg.get("train_cfg"), str(work_dir)):
            result = loop.run()
        files.clear()
    finally:
        loop.close()
        if given is None:
            cluster.close()
    return {**result, "workers": loop.workers, "cpus": cluster.cpus, "restarts": loop.restarts}


class RayFiles:
    """The folder of Ray's own files of a run.

    In a folder of the user's, others have their files too: only what is surely this run's is ever removed.

    Args:
        work_dir: The run's folder, or a URI.
        storage: `ray.storage`: the folder for them; None: `.ray` in the work dir.
    """

    def __init__(self, work_dir: Path | str, storage: str | None) -> None:
        digest = hashlib.sha256(str(work_dir).encode()).hexdigest()[:8]
        self._parent, self._name = (str(work_dir), ".ray") if storage is None else (storage, f"raydet3d-{digest}")
        self.location = f"{self._parent}/{self._name}"

    def clear(self) -> list[str]:
        """Remove them, and return the names of those that were there (on this machine)."""
        left = [] if is_uri(self._parent) else sorted(path.name for path in Path(self.location).glob("*"))
        with suppress(OSError, InputError):
            open_storage(self._parent).remove(self._name)
        return left


class RetryLoop:
    """Tries a run until it is done, is asked to stop, or has failed too often.

    Args:
        spec: The run.
        cluster: Where it runs.
        executor: Starts its tries.
        request: Whether it is to stop.
        name: Name of the run in the cluster; its `run_id` by default.
        make_hooks: Makes further hooks of each worker.
        on_report: Takes the reports that these hooks send.

    Attributes:
        workers: Workers of the newest try.
        restarts: How often a process died and the run was tried again.
        why: Why the newest try was made.
    """

    def __init__(
        self,
        spec: RunSpec,
        cluster: ClusterHandle,
        executor: Executor,
        request: StopSource,
        *,
        name: str | None = None,
        make_hooks: MakeHooks | None = None,
        on_report: OnReport | None = None,
    ) -> None:
        self.options = cluster.options
        self.workers = 0
        self.restarts = 0
        self.why = ""
        self._spec, self._cluster, self._executor, self._request = spec, cluster, executor, request
        self._name, self._make_hooks, self._on_report = name or spec.run_id, make_hooks, on_report
        self._saves = spec.task == "train"  # else a stop ends the workers, and a node that is taken away fails the try
        self._goal = 0  # workers that the next try should find room for
        self._unplaced = 0  # tries in a row whose workers found no place
        self.log_dir = default_work_dir({"work_dir": str(spec.cfg["work_dir"])}, None) / spec.run_id
        self._wait_s = cluster.wait_s
        self._placement_s = self.options.placement_timeout_s
        self._began = time.monotonic()
        self._ended = time.time()
        self._number = 0
        self.log = open_logger(f"driver-{self._name}", self.log_dir / f"{spec.run_id}.log")

    def close(self) -> None:
        """Close the log file."""
        close_logger(self.log)

    def run(self) -> RunResult:
        """Try until there is a result."""
        while True:
            self.workers = self._goal = 1 if self._executor.is_placed else self._await_room()
            self._leave_if_asked()
            began = time.time()
            try:
                result = self._try_once()
            except Exception as error:  # noqa: BLE001 - raised again unless it is worth another try
                failure = self._classify_failure(error, began)
                if failure is not None:
                    self.why = failure
                    self.restarts += 1
                    self._wait_s = max(self._wait_s, self._lost_node_timeout)
                    self.log.warning(
                        "%s; starting again%s, restart %d of %d",
                        failure,
                        " from the newest checkpoint" if self._saves else "",
                        self.restarts,
                        self.options.max_failures,
                    )
                continue
            finally:
                self._number += 1
                self._ended = time.time()
            reason = result.get("stopped")
            if reason not in ("resize", "drain"):
                return result
            self.why = {"resize": "room for more workers", "drain": "a node is taken away"}[reason]
            self._wait_s = self._lost_node_timeout
            self.log.info("%s: resuming after iteration %s", self.why, result["iter"])
            if reason == "drain" and not self._can_resume():
                return result

    # -- before a try -------------------------------------------------------------------------------------------

    @property
    def _lost_node_timeout(self) -> float:
        given = self.options.resource_timeout_s
        return LOST_NODE_TIMEOUT_S if given is None else given

    def _can_resume(self) -> bool:
        """Whether the cluster without its draining nodes has room, or an autoscaler may add it."""
        if self._executor.is_placed or ray.get_runtime_context().get_node_id() in draining_nodes():
            return False
        return max_placeable_workers(self.options, read_nodes()) >= self.options.min_workers or self._cluster.wait_s > 0

    def _await_room(self) -> int:
        """Return how many workers to start: as many as there is room for, within what was asked for.

        Raises:
            Stopped: This process was asked to stop meanwhile, or there was no room any more.
            InputError: There was no room for the least number in time.
        """
        least, most = self.options.min_workers, self.options.max_workers
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
                    f"{self._cluster.where} had room for {fits} of {least} workers after {self._wait_s:.0f} s of "
                    "waiting; the same command resumes once there is more, ray.resource_timeout_s=SECONDS waits longer"
                )
                if self._number == 0:
                    raise InputError(message)
                self.log.error("%s", message)
                raise Stopped("no room")
            if not told and now - since > STABLE_S:
                told = True
                self.log.info(
                    "waiting for room for %d workers (there is some for %d), %.0f s at most", least, fits, self._wait_s
                )
            time.sleep(POLL_S)

    def _room(self, nodes: Sequence[Node]) -> int:
        """Return for how many workers there is room, of numbers that may be there and that share an iteration."""
        fits = min(max_placeable_workers(self.options, nodes), self.options.max_workers)
        batches = self.options.resolved_batch_workers
        return shared_evenly(fits, batches) if batches and config_needs_all_ranks(self._spec.cfg) else fits

    def _leave_if_asked(self) -> None:
        if (reason := self._asked()) is not None:
            raise Stopped(reason)

    def _asked(self) -> str | None:
        """Return why the run is to stop, or None."""
        if self._request.reason is not None:
            return self._request.reason
        limit = self.options.time_limit_s
        return "time limit" if limit and time.monotonic() - self._began > limit else None

    # -- a try --------------------------------------------------------------------------------------------------

    def _try_once(self) -> RunResult:
        options = self.options
        spec = replace(
            self._spec,
            threads=options.threads_per_worker,
            retry=True,  # Ray may start a try's workers again by itself; of a first start nothing is there yet
            batch_workers=options.resolved_batch_workers,
            why=self.why,
            hang_timeout_s=options.hang_timeout_s,
            straggler_ratio=options.straggler_ratio,
        )
        started = time.time()
        attempt = self._executor.start(
            Try(
                run=self._name,
                number=self._number,
                spec=spec,
                options=options,
                workers=self.workers,
                placement_timeout_s=self._placement_s,
                make_hooks=self._make_hooks,
                on_report=self._on_report,
            )
        )
        try:
            self._supervise(attempt, started)
            return attempt.result()
        finally:
            attempt.close()

    def _supervise(self, attempt: Attempt, started: float) -> None:
        """Wait for the end of a try; forward stop requests, and stop it to drain a node or to grow.

        Raises:
            Stopped: A run that saves nothing is to stop.
        """
        told = False
        has_stepped = False
        growth_seen = 0  # polls in a row that found room for more workers
        step_poll = Interval(1.0)
        drain, resize = Interval(self.options.drain_poll_s), Interval(self.options.resize_interval_s)
        while not attempt.wait(POLL_S):
            reason = self._asked()
            if not self._saves:
                self._leave_if_asked()
                continue
            with suppress(ray.exceptions.RayError):  # a head that does not answer for a moment
                if not has_stepped and step_poll.is_due():
                    has_stepped = self._note_first_step(attempt, started)
                if reason is None and drain.is_due():
                    mine = {*attempt.node_ids(), ray.get_runtime_context().get_node_id()}
                    reason = "drain" if draining_nodes() & mine else None
                if reason is None and has_stepped and self.workers < self.options.max_workers and resize.is_due():
                    fits = self._room(excluding_own(read_nodes(), attempt.node_ids(), self.options))
                    growth_seen = growth_seen + 1 if fits > self.workers else 0
                    if growth_seen == 1:  # a resource that shows up for a moment is no reason to start again
                        resize.due_within(2.0)
                    elif growth_seen > 1:
                        reason, self._goal = "resize", fits
                if reason is not None and not told:
                    attempt.stop(reason)
                    told = True

    def _note_first_step(self, attempt: Attempt, started: float) -> bool:
        """Return whether the first step was done; the next start may take twice as long as this one took."""
        at = attempt.first_step_time()
        if at is None:
            return False
        self._unplaced = 0
        if self.options.start_timeout_s is None:
            self._placement_s = max(self.options.placement_timeout_s, 2 * (at - started))
        if self._number:
            self.log.info("first step %.1f s after the last try ended, with %d workers", at - self._ended, self.workers)
        return True

    # -- after a try --------------------------------------------------------------------------------------------

    def _classify_failure(self, error: BaseException, began: float) -> str | None:
        """Return why a try failed, where it is worth another one; None where its workers were not placed.

        Raises:
            InputError: A worker found something that the user has to correct.
            BaseException: The error itself, if another try would fail in the same way.
        """
        if (mistake := user_mistake(error)) is not None:
            raise InputError(mistake) from None
        if was_not_placed(error):
            self.log.warning("the workers were not placed within %.0f s", self._placement_s)
            self._unplaced += 1
            if self._unplaced > MAX_UNPLACED:
                raise error
            if self.options.start_timeout_s is None:
                self._placement_s *= 2
            self._wait_s = max(self._wait_s, self._lost_node_timeout)
            return None
        death = process_death(error)
        if death is None or self.restarts >= self.options.max_failures:
            raise error
        self._leave_if_asked()
        if stacks := read_stacks(self.log_dir, since=began):
            self.log.error(
                "the run made no progress for %g s; each rank's stack (in full in %s):\n%s",
                self.options.hang_timeout_s,
                self.log_dir / "stacks",
                "\n".join(stacks),
            )
            return "the run hung"
        return f"a worker process died ({death})"


class Interval:
    """Timer of an action that is repeated at an interval.

    Args:
        interval_s: Seconds between two times.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s

    def is_due(self) -> bool:
        """Return whether it is time; if so, the next interval begins."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._interval_s
        return True

    def due_within(self, seconds: float) -> None:
        """Let the next time come after so many seconds, if it does not come before."""
        self._next = min(self._next, time.monotonic() + seconds)
