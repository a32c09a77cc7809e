"""Which run is at work: what a plug-in means when it asks for the current logger, history or visualizer.

Runs share nothing, so there is no global one of these. A plug-in that asks gets a stand-in which looks, each time it is
used, for the run that is at work in this thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_RUN: ContextVar[Any] = ContextVar("run", default=None)


@contextmanager
def activate(run: Any) -> Iterator[None]:
    """Make a run the current one of this thread, for as long as the ``with`` block."""
    token = _RUN.set(run)
    try:
        yield
    finally:
        _RUN.reset(token)


class ActiveRunProxy:
    """A part of whichever run is at work when it is used.

    Args:
        part: The run's attribute.
        otherwise: Makes what stands in for it where no run is at work; made once.
    """

    def __init__(self, part: str, otherwise: Callable[[], Any]) -> None:
        vars(self).update(_part=part, _otherwise=otherwise, _alone=None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._found(), name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return ActiveRunProxy, (vars(self)["_part"], vars(self)["_otherwise"])

    def _found(self) -> Any:
        mine = vars(self)
        run = _RUN.get()
        if run is not None:
            return getattr(run, mine["_part"])
        if mine["_alone"] is None:
            mine["_alone"] = mine["_otherwise"]()
        return mine["_alone"]
