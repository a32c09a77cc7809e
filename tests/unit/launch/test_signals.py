"""Signals as requests to stop: taken by the process that runs, and by none that it has forked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from raydet3d.launch.signals import Stopped, stop_signals


def test_a_signal_is_a_request_where_something_trains_and_an_end_where_nothing_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as request:
        request.trains = True
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # the first one's checkpoint is on its way
        assert request.reason == "SIGUSR1"
    with stop_signals(), pytest.raises(Stopped, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_forked_process_ends_of_a_signal_as_any_other(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_signals():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(10)
    assert child.exitcode == -signal.SIGTERM
    assert capfd.readouterr().err == ""
