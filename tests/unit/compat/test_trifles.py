"""Trifles of MMEngine's: worked by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from raydet3d.compat import trifles


def test_versions_compare_as_they_should() -> None:
    order = ["0.9.9", "0.10.0a1", "0.10.0rc0", "0.10.0rc1", "0.10.0", "0.10.7", "1.0", "2.10.0+cpu"]
    for low, high in pairwise(map(trifles.digit_version, order)):
        assert low < high
    assert trifles.digit_version("v1.4.0") == trifles.digit_version("1.4")
    with pytest.raises(ValueError, match="no version"):
        trifles.digit_version("main")


def test_sequences() -> None:
    assert trifles.is_list_of([1, 2], int)
    assert not trifles.is_list_of((1, 2), int)
    assert trifles.is_tuple_of((1, "a"), (int, str))
    assert trifles.is_seq_of([], int)
    assert not trifles.is_seq_of([1, "a"], int)
    assert (trifles.to_2tuple(3), trifles.to_3tuple("ab"), trifles.to_2tuple([1, 2])) == ((3, 3), ("ab",) * 3, (1, 2))
    assert (trifles.is_str("a"), trifles.is_str(b"a")) == (True, False)


def test_multi_apply() -> None:
    assert trifles.multi_apply(lambda a, b, c: (a + b, a * c), [1, 2], [3, 4], c=10) == ([4, 6], [10, 20])


def test_folders(tmp_path: Path) -> None:
    trifles.mkdir_or_exist(str(tmp_path / "a" / "b"))
    trifles.mkdir_or_exist(str(tmp_path / "a" / "b"))
    trifles.mkdir_or_exist("")
    assert (tmp_path / "a" / "b").is_dir()
    trifles.register_all_modules()
    trifles.init_default_scope("mmdet3d")
