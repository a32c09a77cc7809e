"""Processes that write a town: forked where the system can, so that a script that needs a town needs no main guard."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool
from typing import TypeVar

from raydet3d.worker_process import init_worker_process, stop_signals_blocked

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_forked(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Yield the results of the jobs, in order, from forked processes (0 or 1: from this process)."""
    if workers < 2 or len(jobs) < 2:
        yield from map(function, jobs)
        return
    with forked_pool(min(workers, len(jobs))) as pool:
        yield from pool.imap(function, jobs)


@contextmanager
def forked_pool(workers: int) -> Iterator[Pool]:
    """Processes that are forked where the system can: they need no import, and a script needs no main guard."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    with warnings.catch_warnings():
        # Python warns of forking when other threads run; ours compute with numpy alone and take none of their locks.
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        with stop_signals_blocked(method):
            pool = multiprocessing.get_context(method).Pool(workers, init_worker_process)
    with pool:
        yield pool
        pool.close()
        pool.join()
