"""Why a try of Ray Train's ended: a process that died, workers that found no place, a mistake of the user's."""

from __future__ import annotations

import ray

from raydet3d.errors import InputError
from raydet3d.launch.exceptions import iter_causes

NO_ROOM = "WorkerGroupStartupTimeoutError"
LOST_EARLY = "WorkerGroupStartupFailedError"  # what it came from does not survive the way out of Ray's controller
# What gloo and NCCL say on a rank whose peer's process has ended.
PEER_IS_GONE = ("Connection reset by peer", "Connection closed by peer", "Broken pipe", "ncclRemoteError")


def death_in(error: BaseException) -> str | None:
    """How a process (not its code) ended, if that is what the failure is about.

    When a node is lost, the other ranks notice before Ray does: all that is known then is that their peer is gone.
    """
    ends = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    found = next((type(layer).__name__ for layer in iter_causes(error) if isinstance(layer, ends)), None)
    if found is None and any(type(layer).__name__ == LOST_EARLY for layer in iter_causes(error)):
        return "one of them, while they started"
    failures = list(getattr(error, "worker_failures", {}).values())
    if found is None and failures and all(map(_misses_a_peer, failures)):
        return "its peers lost it"
    return found


def _misses_a_peer(error: BaseException) -> bool:
    return any(words in str(layer) for layer in iter_causes(error) for words in PEER_IS_GONE)


def user_mistake(error: BaseException) -> str | None:
    """The sentence of an InputError that a worker raised."""
    for layer in iter_causes(error):
        if isinstance(layer, InputError):
            return str(layer)
    return None


def was_not_placed(error: BaseException) -> bool:
    """Whether the workers did not get their places in time."""
    return any(type(layer).__name__ == NO_ROOM for layer in iter_causes(error))
