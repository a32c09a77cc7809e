"""Classes with named instances, as a script for MMEngine writes and builds them."""

from __future__ import annotations

from typing import Any

import pytest

from raydet3d.compat.managers import DefaultScope, ManagerMixin, init_default_scope
from raydet3d.registry import Registry


def test_instances_by_name() -> None:
    class Board(ManagerMixin):
        def __init__(self, name: str, size: int = 1) -> None:
            super().__init__(name)
            self.size = size

    class Other(ManagerMixin):
        pass

    with pytest.raises(RuntimeError):
        Board.get_current_instance()
    table = Registry("board")
    table.register_module(module=Board)
    first: Any = table.build({"type": "Board", "name": "first", "size": 3})
    assert Board.get_instance("first") is first is Board.get_current_instance()
    assert Board.get_instance("second").instance_name == "second"
    assert not Other.check_instance_created("first")
    with pytest.raises(AssertionError):
        Board.get_instance("")
    with pytest.raises(AssertionError, match="name"):

        class _NoName(ManagerMixin):
            def __init__(self) -> None:
                pass


def test_the_default_scope_is_kept_and_overwritten() -> None:
    with DefaultScope.overwrite_default_scope("toy"):
        current = DefaultScope.get_current_instance()
        assert current is not None
        assert current.scope_name == "toy"
        with DefaultScope.overwrite_default_scope(None):
            assert DefaultScope.get_current_instance() is current
    assert DefaultScope.get_current_instance() is None
    init_default_scope("mmdet3d")
    current = DefaultScope.get_current_instance()
    assert current is not None
    assert current.scope_name == "mmdet3d"
    DefaultScope._instance_dict.clear()
