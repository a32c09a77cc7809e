"""Signals between the driver of a try and its workers, over the key-value store of the Ray cluster.

A value is a few bytes, and reading one takes about a millisecond, in a thread of rank 0, so that training never waits.
The store is Ray's internal one (`ray.experimental.internal_kv`, checked with Ray 2.60), and only this file uses it.
The public counterpart, a named actor, reads equally fast but is one more process for every run and trial: 130 MB, and
5 s to start on two busy cores. It would be lost with its node or owner; the store lives as long as the cluster.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

try:
    from ray.experimental import internal_kv
except ImportError as error:  # pragma: no cover - a Ray that this version does not know
    raise ImportError("this Ray has no ray.experimental.internal_kv; raydet3d works with ray 2.60") from error

NAMESPACE = b"raydet3d"
STOP, FIRST_STEP, NODES, GROUP = "stop", "first_step", "node/", "group"
REPORT, ANSWER = "report", "answer"
POLL_S = 0.02
STOP_POLL_S = 0.25  # between two looks for a stop

Report = Mapping[str, object]
"""What a validation hands to the driver: a few numbers and texts."""


class WorkerLink(Protocol):
    """Messages that the hooks of a worker may send to their driver."""

    def put(self, key: str, value: str) -> None:
        """Set a key."""

    def send(self, report: Report) -> bool:
        """Hand a report to the driver and return whether the run continues."""


class SignalChannel:
    """The signals of one try of one run.

    Args:
        name: Name of the try, unique in the cluster.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._sent = self._received = 0

    def put(self, key: str, value: str) -> None:
        """Set a key."""
        internal_kv._internal_kv_put(self._key(key), value.encode(), namespace=NAMESPACE)

    def get(self, key: str) -> str | None:
        """Return a key's value, or None."""
        value = internal_kv._internal_kv_get(self._key(key), namespace=NAMESPACE)
        return None if value is None else value.decode()

    def values(self, prefix: str) -> list[str]:
        """Return the values of all keys with a prefix."""
        start = self._key(prefix)
        keys = internal_kv._internal_kv_list(start, namespace=NAMESPACE)
        found = [internal_kv._internal_kv_get(key, namespace=NAMESPACE) for key in keys]
        return [value.decode() for value in found if value is not None]

    def send(self, report: Report) -> bool:
        """Hand a report to the driver and return whether the run continues; called by rank 0."""
        self.put(f"{REPORT}/{self._sent}", json.dumps(report))
        while (answer := self.get(f"{ANSWER}/{self._sent}")) is None:
            time.sleep(POLL_S)
        self._sent += 1
        return answer == "continue"

    def receive(self) -> Report | None:
        """Return the next report, or None if there is none yet; called by the driver."""
        found = self.get(f"{REPORT}/{self._received}")
        return None if found is None else json.loads(found)

    def answer(self, continues: bool) -> None:
        """Answer the report that was received."""
        self.put(f"{ANSWER}/{self._received}", "continue" if continues else "stop")
        self._received += 1

    def _key(self, key: str) -> bytes:
        return f"{self.name}/{key}".encode()


def purge(prefix: str) -> list[str]:
    """Delete all keys that begin with a prefix, of channels whose driver was killed too.

    Args:
        prefix: Beginning of the channels' names.

    Returns:
        The placement groups that the channels have named.
    """
    keys = internal_kv._internal_kv_list(prefix.encode(), namespace=NAMESPACE)
    groups = [
        internal_kv._internal_kv_get(key, namespace=NAMESPACE) for key in keys if key.endswith(f"/{GROUP}".encode())
    ]
    internal_kv._internal_kv_del(prefix.encode(), del_by_prefix=True, namespace=NAMESPACE)
    return [group.decode() for group in groups if group is not None]


class StopListener:
    """Polls in a thread whether the driver wants the run to stop, so that training never waits for the network.

    Args:
        channel: Channel of this try.

    Attributes:
        reason: Why the run is to stop, or None.
    """

    def __init__(self, channel: SignalChannel) -> None:
        self.reason: str | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll, args=(channel.get,), name="stop-listener")
        self._thread.daemon = True
        self._thread.start()

    def _poll(self, get: Callable[[str], str | None]) -> None:
        while self.reason is None and not self._closed.wait(STOP_POLL_S):
            with suppress(Exception):  # a head that does not answer is no reason to stop
                self.reason = get(STOP)

    def close(self) -> None:
        """Stop polling."""
        self._closed.set()
