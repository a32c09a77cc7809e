"""Stop requests by signals, and processes that they do not reach."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raydet3d.launch.signals import Stopped, detached_children, stop_signals


def test_signal_sets_a_request_during_training_and_raises_otherwise() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as request:
        request.trains = True
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the first one's checkpoint is on its way
        assert request.reason == "SIGUSR1"
    with stop_signals(), pytest.raises(Stopped, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_forked_process_has_the_default_action(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_signals():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(10)
    assert child.exitcode == -signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_first_ctrl_c_requests_a_stop_and_a_later_one_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stop_signals() as request:
            request.trains = True
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # GNU timeout sends it twice at once
            assert request.reason == "SIGINT"
            monkeypatch.setattr("raydet3d.launch.signals.INSIST_S", 0.0)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_nested_blocks_share_a_request_that_ignores_signals_when_over() -> None:
    with stop_signals() as outer, stop_signals() as inner:
        assert outer is inner
        outer.is_over = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.reason is None


def test_only_children_of_the_detaching_thread_get_a_new_session() -> None:
    command = [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"]

    def start() -> str:
        # As Ray starts its daemons: with a preexec_fn, so that Python's fork handlers run.
        return subprocess.run(
            command, preexec_fn=lambda: None, capture_output=True, text=True, check=True
        ).stdout.strip()

    with ThreadPoolExecutor(1) as other, detached_children():
        assert (start(), other.submit(start).result()) == ("True", "False")
    assert start() == "False"
