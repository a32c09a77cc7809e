"""Why a trial failed, in one line; out of memory is named as such, whoever noticed it."""

from __future__ import annotations

import re

from raydet3d.errors import InputError
from raydet3d.launch.exceptions import iter_causes


class BadValue(RuntimeError):
    """A trial whose metric or loss is no number any more."""


def reason_of(error: BaseException) -> str:
    """Why a trial failed.

    Args:
        error: What was raised, in its own process or by Ray for it.
    """
    all_of_it = list(iter_causes(error))
    for layer in all_of_it:
        if is_out_of_memory(layer):
            return f"out of memory: {_line(layer)[:200]}"
    for layer in all_of_it:
        if not type(layer).__module__.startswith("ray."):
            text = _line(layer)[:300]
            return text if isinstance(layer, BadValue | InputError) else f"{type(layer).__name__}: {text}"
    for layer in all_of_it:
        if {kind.__name__ for kind in type(layer).__mro__} & {"RayActorError", "WorkerCrashedError"}:
            return _death(str(layer))
    return f"{type(error).__name__}: {_line(error)[:300]}"


def _death(text: str) -> str:
    """What became of a process, from what Ray says of it."""
    if "SIGKILL" in text or "connection error code" in text:
        return "out of memory? its process was killed (SIGKILL), which is what a system does when memory runs out"
    raised = [line.strip() for line in text.splitlines() if re.match(r"\s*(\w+\.)*\w*(Error|Exception)\b.*:", line)]
    return f"its process died: {' '.join((raised[-1] if raised else text).split())[:300]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's or the device's memory was too small."""
    if {kind.__name__ for kind in type(error).__mro__} & {"MemoryError", "OutOfMemoryError"}:
        return True
    text = str(error)
    if isinstance(error, RuntimeError):
        return any(words in text for words in ("out of memory", "can't allocate memory", "low on memory"))
    return type(error).__module__.startswith("ray.") and "low on memory" in text  # Ray's memory monitor


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
