"""Named instances of a class that any code can ask for, and the default scope, under MMEngine's names."""

from __future__ import annotations

import inspect
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

_LOCK = threading.RLock()


class ManagerMeta(type):
    """Give each class instances of its own, by name."""

    _instance_dict: OrderedDict[str, Any]

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, object]) -> None:
        cls._instance_dict = OrderedDict()
        if "name" not in inspect.signature(cls.__init__).parameters:  # type: ignore[misc]
            raise AssertionError(f"{cls.__name__}.__init__ must have an argument 'name'")
        super().__init__(name, bases, namespace)


class ManagerMixin(metaclass=ManagerMeta):
    """Base class of classes whose instances are asked for by name.

    The registry builds a subclass by `get_instance`.

    Args:
        name: Name of the instance.
    """

    _instance_dict: ClassVar[OrderedDict[str, Any]]

    def __init__(self, name: str = "", **kwargs: object) -> None:
        if not isinstance(name, str) or not name:
            raise AssertionError(f"the name of an instance must be a text that is not empty, got {name!r}")
        self._instance_name = name

    @classmethod
    def get_instance(cls, name: str, **kwargs: object) -> Self:
        """Return the instance of a name; make it if there is none.

        Args:
            name: Name of the instance.
            **kwargs: Arguments of the class; an instance that exists ignores them.
        """
        with _LOCK:
            if name not in cls._instance_dict:
                cls._instance_dict[name] = cls(name=name, **kwargs)
            found: Self = cls._instance_dict[name]
        return found

    @classmethod
    def get_current_instance(cls) -> Self | None:
        """Return the newest instance.

        Raises:
            RuntimeError: There is none.
        """
        with _LOCK:
            if not cls._instance_dict:
                raise RuntimeError(f"{cls.__name__} has no instance yet; call {cls.__name__}.get_instance(name)")
            found: Self = next(reversed(cls._instance_dict.values()))
        return found

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Return whether there is an instance of a name."""
        return name in cls._instance_dict

    @property
    def instance_name(self) -> str:
        """Name of the instance."""
        return self._instance_name


class DefaultScope(ManagerMixin):
    """The scope that names without a prefix belong to. Registries here have no scopes, so it changes no look-up.

    Args:
        name: Name of the instance.
        scope_name: Name of the scope.
    """

    def __init__(self, name: str, scope_name: str) -> None:
        super().__init__(name)
        if not isinstance(scope_name, str):
            raise AssertionError(f"scope_name must be a text, got {scope_name!r}")
        self._scope_name = scope_name

    @property
    def scope_name(self) -> str:
        """Name of the scope."""
        return self._scope_name

    @classmethod
    def get_current_instance(cls) -> Self | None:
        """Return the newest scope; None where there is none."""
        return super().get_current_instance() if cls._instance_dict else None

    @classmethod
    @contextmanager
    def overwrite_default_scope(cls, scope_name: str | None) -> Iterator[None]:
        """Make a scope the newest in the `with` block; None changes nothing."""
        if scope_name is None:
            yield
            return
        name = f"overwrite-{uuid.uuid4()}"
        cls.get_instance(name, scope_name=scope_name)
        try:
            yield
        finally:
            cls._instance_dict.pop(name, None)


def init_default_scope(scope: str) -> None:
    """Make a scope the newest."""
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name != scope:
        DefaultScope.get_instance(f"{scope}-{uuid.uuid4()}", scope_name=scope)
