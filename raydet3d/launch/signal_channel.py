"""Words between a run's driver and its workers, through the key-value store that every Ray cluster has.

A word is a few bytes; reading one takes half a millisecond and no worker's time: a thread of rank 0 does it. No actor
has to be started, and nothing has to be shared but the cluster. The store is Ray's internal one, so this file is the
only one that touches it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ray.experimental import internal_kv

NAMESPACE = b"raydet3d"
STOP, FIRST_STEP, NODES = "stop", "first_step", "node/"


class SignalChannel:
    """The words of one try of one run.

    Args:
        name: Name of the try, unique in the cluster.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def put(self, key: str, value: str) -> None:
        """Say a word."""
        internal_kv._internal_kv_put(self._key(key), value.encode(), namespace=NAMESPACE)

    def get(self, key: str) -> str | None:
        """Hear a word, if it has been said."""
        value = internal_kv._internal_kv_get(self._key(key), namespace=NAMESPACE)
        return None if value is None else value.decode()

    def values(self, prefix: str) -> list[str]:
        """All words whose key begins so."""
        start = self._key(prefix)
        keys = internal_kv._internal_kv_list(start, namespace=NAMESPACE)
        found = [internal_kv._internal_kv_get(key, namespace=NAMESPACE) for key in keys]
        return [value.decode() for value in found if value is not None]

    def close(self) -> None:
        """Forget what was said."""
        internal_kv._internal_kv_del(self._key(""), del_by_prefix=True, namespace=NAMESPACE)

    def _key(self, key: str) -> bytes:
        return f"{self.name}/{key}".encode()


class StopListener:
    """Hears in a thread whether the driver wants the run to stop, so that training never waits for the network.

    Args:
        channel: Of this try.
        interval_s: Seconds from one look to the next.
    """

    def __init__(self, channel: SignalChannel, *, interval_s: float = 0.25) -> None:
        self.reason: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._listen, args=(channel, interval_s), name="stop-listener", daemon=True
        )
        self._thread.start()

    def _listen(self, channel: SignalChannel, interval_s: float) -> None:
        while self.reason is None and not self._over.wait(interval_s):
            self.reason = _heard(channel.get, STOP)

    def close(self) -> None:
        """Listen no more."""
        self._over.set()


def _heard(get: Callable[[str], str | None], key: str) -> str | None:
    """A word, or None while the store cannot be reached: training goes on."""
    try:
        return get(key)
    except Exception:  # noqa: BLE001 - whatever ails the cluster's head, it is no reason to stop
        return None
