"""Run the jobs of a preparation on worker processes, in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Protocol, TypeVar

from raydet3d.worker_process import init_worker_process, stop_signals_blocked

Job = TypeVar("Job")
Result = TypeVar("Result")


class JobRunner(Protocol):
    """Runs a function on each job: on worker processes of this node, or on a cluster."""

    def __call__(self, function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
        """Yield the results in the order of the jobs.

        Args:
            function: A function of a module, which can be pickled.
            jobs: What to call it with.
            workers: Number of processes; 0 runs the jobs in this one.
        """


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, chunksize: int | None = None
) -> Iterator[Result]:
    """Yield the results of the jobs, in order, from worker processes of this node (0: from this process).

    Args:
        function: A function of a module.
        jobs: What to call it with.
        workers: Number of processes.
        chunksize: Jobs that a worker takes at a time; chosen by their number by default.
    """
    if workers <= 0 or len(jobs) < 2:
        yield from map(function, jobs)
        return
    # Not forked from this process, which may have threads; the fork server imports torch once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    with stop_signals_blocked("forkserver"):
        forkserver.ensure_running()  # its forks, the workers, inherit what it blocks
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=init_worker_process)
    try:
        chunksize = chunksize or max(1, min(16, len(jobs) // (4 * workers)))
        yield from pool.map(function, jobs, chunksize=chunksize)
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process was killed (out of memory?); run the same command again, it continues where it was"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
