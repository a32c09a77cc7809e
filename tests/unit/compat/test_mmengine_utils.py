"""Trifles of MMEngine's: worked by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from raydet3d.compat import mmengine_utils


def test_digit_version_orders_versions() -> None:
    order = ["0.9.9", "0.10.0a1", "0.10.0rc0", "0.10.0rc1", "0.10.0", "0.10.7", "1.0", "2.10.0+cpu"]
    for low, high in pairwise(map(mmengine_utils.digit_version, order)):
        assert low < high
    assert mmengine_utils.digit_version("v1.4.0") == mmengine_utils.digit_version("1.4")
    with pytest.raises(ValueError, match="not a version"):
        mmengine_utils.digit_version("main")


def test_sequence_checks() -> None:
    assert mmengine_utils.is_list_of([1, 2], int)
    assert not mmengine_utils.is_list_of((1, 2), int)
    assert mmengine_utils.is_tuple_of((1, "a"), (int, str))
    assert mmengine_utils.is_seq_of([], int)
    assert not mmengine_utils.is_seq_of([1, "a"], int)
    assert (mmengine_utils.is_str("a"), mmengine_utils.is_str(b"a")) == (True, False)


def test_multi_apply() -> None:
    assert mmengine_utils.multi_apply(lambda a, b, c: (a + b, a * c), [1, 2], [3, 4], c=10) == ([4, 6], [10, 20])


def test_registering_all_modules_has_nothing_to_do() -> None:
    mmengine_utils.register_all_modules()
