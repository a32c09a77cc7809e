"""Why a try of Ray Train's ended: a process that died, workers that found no place, a mistake of the user's."""

from __future__ import annotations

from collections.abc import Iterator

import ray

from raydet3d.errors import InputError

NO_ROOM = "WorkerGroupStartupTimeoutError"
# What gloo and NCCL say on a rank whose peer's process has ended.
PEER_IS_GONE = ("Connection reset by peer", "Connection closed by peer", "Broken pipe", "ncclRemoteError")
# Where Ray's exceptions keep the one that they stand for; asked by name, so that a Ray without one of them still works.
WRAPPED = ("health_check_failure", "controller_failure", "_base_exc", "cause", "__cause__")


def _layers(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it wraps, outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        layer = waiting.pop(0)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        inner = [getattr(layer, name, None) for name in WRAPPED]
        inner += getattr(layer, "worker_failures", {}).values()
        waiting += [item for item in inner if isinstance(item, BaseException)]


def death_in(error: BaseException) -> str | None:
    """How a process (not its code) ended, if that is what the failure is about.

    When a node is lost, the other ranks notice before Ray does: all that is known then is that their peer is gone.
    """
    ends = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    found = next((type(layer).__name__ for layer in _layers(error) if isinstance(layer, ends)), None)
    failures = list(getattr(error, "worker_failures", {}).values())
    if found is None and failures and all(map(_misses_a_peer, failures)):
        return "its peers lost it"
    return found


def _misses_a_peer(error: BaseException) -> bool:
    return any(words in str(layer) for layer in _layers(error) for words in PEER_IS_GONE)


def user_mistake(error: BaseException) -> str | None:
    """The sentence of an InputError that a worker raised."""
    for layer in _layers(error):
        if isinstance(layer, InputError):
            return str(layer)
    return None


def was_not_placed(error: BaseException) -> bool:
    """Whether the workers did not get their places in time."""
    return any(type(layer).__name__ == NO_ROOM for layer in _layers(error))
