"""Functions on sequences and methods, under MMEngine's names."""

from __future__ import annotations

import math
import os
from collections import namedtuple
from typing import Any

import pytest

from raydet3d.compat import mmengine_sequences as seq


def test_tuples_repeat_what_is_not_iterable() -> None:
    assert seq.to_2tuple(3) == (3, 3)
    assert seq.to_3tuple("ab") == ("ab",) * 3
    assert seq.to_2tuple([1, 2]) == (1, 2)
    assert seq.to_ntuple(5)(None) == (None,) * 5


def test_casts() -> None:
    assert seq.list_cast(["1", "2"], int) == [1, 2]
    assert seq.tuple_cast((1, 2), str) == ("1", "2")
    assert list(seq.iter_cast([1], float)) == [1.0]
    with pytest.raises(TypeError):
        seq.list_cast(3, str)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        seq.list_cast([3], "str")  # type: ignore[arg-type]


def test_slices_and_joins() -> None:
    assert seq.slice_list([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]
    assert seq.slice_list([1, 2, 3], [1, 2]) == [[1], [2, 3]]
    assert seq.concat_list([[1], [2, 3]]) == [1, 2, 3]
    with pytest.raises(ValueError, match="add up"):
        seq.slice_list([1, 2, 3], 2)
    with pytest.raises(TypeError):
        seq.slice_list([1], "1")  # type: ignore[arg-type]


def test_apply_to_keeps_the_containers() -> None:
    Pair = namedtuple("Pair", "a b")
    data = {"x": [1, "a"], "y": (2, Pair(3, "b"))}
    assert seq.apply_to(data, lambda v: isinstance(v, int), lambda v: v * 10) == {
        "x": [10, "a"],
        "y": (20, Pair(30, "b")),
    }


def test_methods() -> None:
    class Base:
        def run(self) -> None: ...

    class Own(Base):
        value = 1

        def run(self) -> None: ...

    assert seq.has_method(Own(), "run")
    assert not seq.has_method(Own(), "value")
    assert seq.is_method_overridden("run", Base, Own())
    assert not seq.is_method_overridden("run", Base, type("Same", (Base,), {}))
    with pytest.raises(AssertionError):
        seq.is_method_overridden("run", Base(), Own)  # type: ignore[arg-type]


def test_imports_by_name() -> None:
    assert seq.import_modules_from_strings(["os.path", "math"]) == [os.path, math]
    assert seq.import_modules_from_strings("math") is math
    assert seq.import_modules_from_strings(None) is None
    assert seq.import_modules_from_strings(["no_such_module_xyz"], allow_failed_imports=True) == [None]
    with pytest.raises(ImportError):
        seq.import_modules_from_strings("no_such_module_xyz")
    wrong: Any = [1]
    with pytest.raises(TypeError):
        seq.import_modules_from_strings(wrong)
    assert seq.get_object_from_string("os.path.join") is os.path.join
    assert seq.get_object_from_string("os.path") is os.path
    assert seq.get_object_from_string("no_such_module_xyz.name") is None
