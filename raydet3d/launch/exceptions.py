"""An exception of Ray's and those that it stands for. Does not import Ray."""

from __future__ import annotations

from collections.abc import Iterator

# Where Ray's exceptions keep the one that they stand for; asked by name, so that a Ray without one of them still works.
WRAPPED = ("health_check_failure", "controller_failure", "_base_exc", "cause", "__cause__")


def iter_causes(error: BaseException) -> Iterator[BaseException]:
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
