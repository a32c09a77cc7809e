"""Worker processes ignore stop signals of others, and end with their parent or when it terminates them."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

import pytest

from raydet3d.worker_process import STOP_SIGNALS, init_worker_process, stop_signals_blocked


def work(pipe: Connection) -> None:
    init_worker_process()
    pipe.send("ready")
    while True:
        pipe.recv()
        pipe.send("alive")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_survives_signals_of_others_and_its_parent_can_terminate_it(method: str) -> None:
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs,), daemon=True)
    with stop_signals_blocked(method):
        worker.start()
    for number in STOP_SIGNALS:  # while it starts
        send_from_another_process(worker.pid, number)
    assert ours.recv() == "ready"
    for number in STOP_SIGNALS:
        send_from_another_process(worker.pid, number)
    ours.send("?")
    assert ours.recv() == "alive"
    time.sleep(0.5)  # two SIGTERM that are pending at once are one: the kernel does not queue them
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def send_from_another_process(pid: int | None, number: signal.Signals) -> None:
    code = f"import os; os.kill({pid}, {int(number)})"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_blocked_signals_are_delivered_afterwards() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        with stop_signals_blocked():
            # To this thread: of a process with several threads any one that does not block a signal may take it.
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            time.sleep(0.05)
            assert not received
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_init_in_the_main_process_changes_nothing() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    init_worker_process()
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
