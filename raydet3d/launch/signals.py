"""Stop requests: which signals stop a command, and how it says that it has saved and can be resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Ranks exchange a reason as its position here.
REASONS = ("SIGTERM", "SIGUSR1", "time limit", "drain", "resize", "SIGINT")
INSIST_S = 1.0  # `timeout -s INT` sends a signal twice within microseconds; a user presses Ctrl-C again later


class Stopped(BaseException):
    """The command was asked to stop and can be resumed; of a run, every rank raises it at the same iteration.

    Not an `Exception`: it may be raised by a signal handler inside any code, such as a module of the user's that is
    being imported, and no `except Exception` on the way may take it for a failure.

    Args:
        reason: One of `REASONS`, or another one of the launcher's.
        iteration: Number of finished iterations; None before training.
        checkpoint: Path of the checkpoint to resume from.
    """

    def __init__(self, reason: str, iteration: int | None = None, checkpoint: str | None = None) -> None:
        super().__init__(reason, iteration, checkpoint)
        self.reason, self.iteration, self.checkpoint = reason, iteration, checkpoint

    def __str__(self) -> str:
        where = "" if self.iteration is None else f" after iteration {self.iteration}"
        saved = f"; it resumes from {self.checkpoint}" if self.checkpoint else ""
        return f"stopped ({self.reason}){where}{saved}"


class StopRequest:
    """Whether this process was asked to stop, and why.

    Attributes:
        reason: One of `REASONS`, or None.
        trains: Whether something looks at `reason` (a training, a sweep). Else a signal raises `Stopped` at once
            (Ctrl-C: `KeyboardInterrupt`).
        is_over: Whether the command has ended; signals are ignored from then on.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.trains = False
        self.is_over = False
        self._process = os.getpid()
        self._asked_at = 0.0

    def listen(self) -> dict[signal.Signals, Any]:
        """Take SIGTERM, SIGUSR1 and SIGINT as requests to stop.

        Call it again after `ray.init`: Ray's core takes SIGTERM, and ends the process three seconds after it.

        Returns:
            The previous handlers.
        """
        kinds = [signal.SIGTERM, signal.SIGUSR1]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell ignores it for background jobs
            kinds.append(signal.SIGINT)
        return {kind: signal.signal(kind, self._handle) for kind in kinds}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork of the user's own: the default action
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.alarm(0)  # set by Ray's core where its handler came first
        if self.is_over:
            return
        is_first = self.reason is None
        if number == signal.SIGINT and (
            not self.trains or (not is_first and time.monotonic() > self._asked_at + INSIST_S)
        ):
            raise KeyboardInterrupt
        if not is_first:
            return  # the checkpoint of the first request is being written
        self.reason, self._asked_at = signal.Signals(number).name, time.monotonic()
        if not self.trains:
            raise Stopped(self.reason)


_request: StopRequest | None = None


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Take signals as requests to stop within the `with` block; a nested block shares the outer one's request.

    Yields:
        The request. Set `trains` once something looks at it.
    """
    global _request
    if _request is not None:
        yield _request
        return
    _request = StopRequest()
    before = _request.listen()
    try:
        yield _request
    finally:
        _request = None
        for kind, handler in before.items():
            signal.signal(kind, handler)


_detaching_thread: int | None = None


@contextmanager
def detached_children() -> Iterator[None]:
    """Start every child process of this thread in a session of its own, out of reach of signals to this one's group.

    For `ray.init`: Ray's daemons have no option for it. Their workers inherit the session.
    """
    global _detaching_thread
    _detaching_thread = threading.get_ident()
    try:
        yield
    finally:
        _detaching_thread = None


def _detach() -> None:
    if _detaching_thread == threading.get_ident():
        os.setsid()


os.register_at_fork(after_in_child=_detach)
