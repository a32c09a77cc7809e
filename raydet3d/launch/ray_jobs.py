"""Run the jobs of a preparation as Ray tasks: a `raydet3d.data.prepare.JobRunner`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray

from raydet3d.launch.capacity import read_nodes
from raydet3d.launch.cluster import join_or_start
from raydet3d.launch.preflight import check_seen_by_nodes
from raydet3d.launch.signals import stop_signals
from raydet3d.log import get_logger

Job = TypeVar("Job")
Result = TypeVar("Result")

_RETRIES = 3  # of a task whose node or worker died


class RayJobs:
    """Runs jobs on the cluster of `RAY_ADDRESS`, or on one that it starts on this machine.

    Args:
        folder: The data set's folder, which every node must see under this path.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
        """Yield the results in the order of the jobs.

        Args:
            function: A function of a module.
            jobs: What to call it with.
            workers: Tasks that run at once; 0: one for each CPU of the cluster.

        Raises:
            InputError: There is no cluster, a node does not see the folder, or a job raised it.
        """
        if not jobs:
            return
        where, is_ours = join_or_start(dashboard=False, workers_print=False)
        with stop_signals() as request:
            request.listen()  # Ray has taken SIGTERM
        pending: deque[ray.ObjectRef] = deque()
        try:
            hosts = [node for node in read_nodes() if node.total.get("CPU", 0) >= 1]
            check_seen_by_nodes(self._folder, hosts, what="ROOT", flag="ROOT")
            cpus = max(1, int(sum(node.total["CPU"] for node in hosts)))
            at_once = workers or 2 * cpus  # where nobody limits them, the next tasks wait for CPUs
            get_logger().info("%d jobs as Ray tasks on %s, %d CPUs", len(jobs), where, min(workers or cpus, cpus))
            # Short jobs, such as frames, travel in groups: a task costs about a millisecond.
            size = max(1, min(16, len(jobs) // (64 * at_once)))
            task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_run_group)
            for begin in range(0, len(jobs), size):
                if len(pending) == at_once:
                    yield from _take(pending)
                pending.append(task.remote(function, jobs[begin : begin + size]))
            while pending:
                yield from _take(pending)
        finally:
            for ref in pending:
                ray.cancel(ref, force=True)
            if is_ours:
                ray.shutdown()


def _take(pending: deque[ray.ObjectRef]) -> list[Any]:
    """Wait for the first of the tasks and remove it."""
    try:
        done: list[Any] = ray.get(pending[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    pending.popleft()
    return done


def _run_group(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    return [function(job) for job in jobs]
