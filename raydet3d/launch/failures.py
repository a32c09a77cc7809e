"""Classify why a run failed: a process that died, workers that were not placed, a user's mistake, no memory.

Does not import Ray: its exceptions are recognised by the names of their classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from raydet3d.errors import InputError

# Attributes in which Ray's exceptions keep the one that they stand for.
WRAPPED = ("health_check_failure", "controller_failure", "_base_exc", "cause", "__cause__")
PROCESS_DEATHS = frozenset({"RayActorError", "WorkerCrashedError", "OutOfMemoryError"})
NOT_PLACED = "WorkerGroupStartupTimeoutError"
LOST_EARLY = "WorkerGroupStartupFailedError"  # its cause does not survive the way out of Ray's controller
# What gloo and NCCL raise on a rank whose peer's process has ended.
PEER_IS_GONE = ("Connection reset by peer", "Connection closed by peer", "Broken pipe", "ncclRemoteError")


class NonFiniteError(RuntimeError):
    """Raised to end a trial whose metric or loss is not finite."""


def iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it wraps, outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = [getattr(cause, name, None) for name in WRAPPED]
        inner += getattr(cause, "worker_failures", {}).values()
        waiting += [item for item in inner if isinstance(item, BaseException)]


def process_death(error: BaseException) -> str | None:
    """Return how a process (not its code) ended, or None if the failure is about something else.

    When a node is lost, the other ranks notice before Ray does: all that is known then is that their peer is gone.
    """
    for cause in iter_causes(error):
        kinds = _class_names(cause)
        if kinds & PROCESS_DEATHS and _is_rays(cause):
            return type(cause).__name__
    if any(type(cause).__name__ == LOST_EARLY for cause in iter_causes(error)):
        return "one of them, while they started"
    failures = list(getattr(error, "worker_failures", {}).values())
    return "its peers lost it" if failures and all(map(_has_lost_peer, failures)) else None


def _has_lost_peer(error: BaseException) -> bool:
    return any(words in str(cause) for cause in iter_causes(error) for words in PEER_IS_GONE)


def user_mistake(error: BaseException) -> str | None:
    """Return the sentence of an InputError that a worker raised."""
    return next((str(cause) for cause in iter_causes(error) if isinstance(cause, InputError)), None)


def was_not_placed(error: BaseException) -> bool:
    """Return whether the workers did not get their places in time."""
    return any(type(cause).__name__ == NOT_PLACED for cause in iter_causes(error))


def describe_failure(error: BaseException) -> str:
    """Describe in one line why a run failed; out of memory is named whether the process or Ray noticed it.

    Args:
        error: What was raised, in its own process or by Ray for it.
    """
    # What Ray raises for an error of a task is of the error's class too, with a whole traceback for a message.
    found = list(iter_causes(error))
    causes = [cause for cause in found if "RayTaskError" not in _class_names(cause)] or found
    for cause in causes:
        if is_out_of_memory(cause):
            return f"out of memory: {_one_line(cause)[:200]}"
    for cause in causes:
        if not _is_rays(cause):
            text = _one_line(cause)[:300]
            return text if isinstance(cause, NonFiniteError | InputError) else f"{type(cause).__name__}: {text}"
    for cause in causes:
        if _class_names(cause) & PROCESS_DEATHS:
            return _describe_death(str(cause))
    return f"{type(error).__name__}: {_one_line(error)[:300]}"


def _describe_death(text: str) -> str:
    """Shorten Ray's description of a dead process."""
    if "SIGKILL" in text or "connection error code" in text:
        return "out of memory? its process was killed (SIGKILL), which is what a system does when memory runs out"
    raised = [line.strip() for line in text.splitlines() if re.match(r"\s*(\w+\.)*\w*(Error|Exception)\b.*:", line)]
    return f"its process died: {' '.join((raised[-1] if raised else text).split())[:300]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host's or the device's memory was too small."""
    if _class_names(error) & {"MemoryError", "OutOfMemoryError"}:
        return True
    text = str(error)
    if isinstance(error, RuntimeError):
        return any(words in text for words in ("out of memory", "can't allocate memory", "low on memory"))
    return _is_rays(error) and "low on memory" in text  # Ray's memory monitor


def _class_names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.startswith("ray.")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
