"""Worker processes (data loading, preparation) that outlive a signal to their process group, but not their parent.

A terminal, `timeout`, a batch system and torchrun send a signal to every process of a group. Only the process that runs
the command is to act on it: it saves, and it needs its workers until then.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1, signal.SIGINT})
_POLL_S = 1.0


@contextmanager
def stop_signals_blocked(start_method: str | None = "fork") -> Iterator[None]:
    """Block stop signals while worker processes start: they inherit the mask, and are safe from their first moment.

    What arrives meanwhile is delivered to this process afterwards.

    Args:
        start_method: Start method of the workers; None is the platform's default.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        if (start_method or multiprocessing.get_start_method()) != "fork":
            multiprocessing.resource_tracker.ensure_running()  # starting it unblocks signals
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_worker_process() -> None:
    """Ignore stop signals, and end with the parent process. Call it first in a worker process.

    SIGTERM still ends the worker when its parent sends it, as torch's DataLoader and `multiprocessing` do. In the main
    process this does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, _ignore)  # not SIG_IGN, which a program that the worker executes would inherit
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGUSR1})
    threading.Thread(target=_end_with, args=(parent,), name="end-with-parent", daemon=True).start()


def _ignore(number: int, frame: object) -> None:
    """Do nothing."""


def _end_with(parent: BaseProcess) -> None:
    """Exit once the parent is gone, or sends SIGTERM; from anybody else SIGTERM is consumed without effect."""
    while parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, _POLL_S)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(0)
