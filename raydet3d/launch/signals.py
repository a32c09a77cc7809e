"""Stopping a run so that it can go on: who asks, and what the run says when it has saved and leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# In the order of their numbers on the wire; what the sender of a request may say.
REASONS = ("SIGTERM", "SIGUSR1", "time limit", "drain", "resize")


class Stopped(Exception):
    """The run was asked to stop, and has saved: every rank leaves with this, at the same iteration.

    Args:
        reason: One of ``REASONS``; of the launcher, also another one.
        iteration: Iterations finished; None where no training has said so.
        checkpoint: File that the run goes on from, as text.
    """

    def __init__(self, reason: str, iteration: int | None = None, checkpoint: str | None = None) -> None:
        super().__init__(reason, iteration, checkpoint)
        self.reason, self.iteration, self.checkpoint = reason, iteration, checkpoint

    def __str__(self) -> str:
        where = "" if self.iteration is None else f" after iteration {self.iteration}"
        saved = f"; it goes on from {self.checkpoint}" if self.checkpoint else ""
        return f"stopped ({self.reason}){where}{saved}"


class StopRequest:
    """Whether this process was asked to stop, and why.

    Attributes:
        reason: One of ``REASONS``, or None.
        trains: Whether there is a training that looks at it; where there is none, a signal ends the process at once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.trains = False
        self._process = os.getpid()

    def listen(self) -> dict[signal.Signals, Any]:
        """Take SIGTERM and SIGUSR1 as requests to stop. Call it again where something else may have taken them.

        (Ray's C++ core does when it starts: it would end the process three seconds after the signal.) Further signals
        change nothing: the first one's checkpoint is on its way.

        Returns:
            The handlers that were there before.
        """
        return {kind: signal.signal(kind, self._ask) for kind in (signal.SIGTERM, signal.SIGUSR1)}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork of it, which has the handler but not the run: it just ends
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.alarm(0)  # the one that Ray's core has set, where it came first
        if self.reason is not None:
            return
        self.reason = signal.Signals(number).name
        if not self.trains:
            raise Stopped(self.reason)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Take signals as requests to stop, for as long as the ``with`` block.

    Yields:
        The request; set ``trains`` once something looks at it.
    """
    request = StopRequest()
    before = request.listen()
    try:
        yield request
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
