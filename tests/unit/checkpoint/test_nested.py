"""Walking nested containers of tensors."""

from __future__ import annotations

from collections import OrderedDict

import torch

from raydet3d.checkpoint.nested import find_tensors, is_sharded, map_leaves, num_bytes

STATE = {"a": [torch.zeros(3), (1, "x")], "b": OrderedDict({7: torch.ones(2, dtype=torch.int8)}), "c": None}


def test_map_leaves_passes_the_keys_that_lead_to_each_leaf() -> None:
    seen = []
    copy = map_leaves(STATE, lambda value, keys: seen.append(keys) or value)  # type: ignore[func-returns-value]
    assert seen == [("a", 0), ("a", 1, 0), ("a", 1, 1), ("b", 7), ("c",)]
    assert copy == STATE
    assert type(copy["b"]) is dict  # type: ignore[call-overload, index]


def test_containers_may_count_as_leaves() -> None:
    marked = {"w": {"mark": 1}, "rest": [{"mark": 2, "more": 3}]}
    found = map_leaves(marked, lambda value, keys: str(value), is_leaf=lambda value: value == {"mark": 1})
    assert found == {"w": "{'mark': 1}", "rest": [{"mark": "2", "more": "3"}]}


def test_tensors_and_their_bytes() -> None:
    assert [tensor.numel() for tensor in find_tensors(STATE)] == [3, 2]
    assert num_bytes(STATE) == 14
    assert not is_sharded(STATE)
