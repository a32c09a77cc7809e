"""Track the active run, for plug-ins that use MMEngine's current logger, history or visualizer.

Runs share no state, so none of these is global. A plug-in gets a proxy that looks up the active run of the current
thread on each access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_RUN: ContextVar[object] = ContextVar("run", default=None)


@contextmanager
def activate(run: object) -> Iterator[None]:
    """Make a run the active one of this thread within the `with` block."""
    token = _RUN.set(run)
    try:
        yield
    finally:
        _RUN.reset(token)


class ActiveRunProxy:
    """Proxy for an attribute of the active run, looked up on each access.

    Args:
        part: Name of the run's attribute.
        otherwise: Creates the object to use while no run is active; called at most once.
    """

    def __init__(self, part: str, otherwise: Callable[[], object]) -> None:
        vars(self).update(_part=part, _otherwise=otherwise, _alone=None)

    @property
    def __class__(self) -> Any:
        """The class of the object behind the proxy, so that `isinstance` works."""
        return type(self._found())

    @__class__.setter
    def __class__(self, kind: object) -> None:
        raise TypeError("the class of a proxy cannot be set")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._found(), name, value)

    def __reduce__(self) -> tuple[type[ActiveRunProxy], tuple[str, Callable[[], object]]]:
        return ActiveRunProxy, (vars(self)["_part"], vars(self)["_otherwise"])

    def _found(self) -> Any:
        mine = vars(self)
        run = _RUN.get()
        if run is not None:
            return getattr(run, mine["_part"])
        if mine["_alone"] is None:
            mine["_alone"] = mine["_otherwise"]()
        return mine["_alone"]
