"""What to keep: a pure function, against its rules stated once more as properties."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet3d.checkpoint.manifest import Manifest
from raydet3d.checkpoint.retention import surplus


def entry(serial: int, **facts: object) -> Manifest:
    return Manifest(**{"name": str(serial), "sha256": [], "size": 1, "step": serial, "serial": serial, **facts})


def serials(entries: list[Manifest]) -> list[int]:
    return [e.serial for e in entries]


@given(st.lists(st.integers(0, 50), unique=True), st.integers(-1, 6))
def test_a_limit_leaves_the_newest(numbers: list[int], limit: int) -> None:
    dropped = set(serials(surplus([entry(s) for s in numbers], limit)))
    kept = set(numbers) - dropped
    assert len(kept) == (min(limit, len(numbers)) if limit > 0 else len(numbers))
    assert not kept or not dropped or min(kept) > max(dropped)


def test_milestones_do_not_count_and_do_not_go() -> None:
    entries = [entry(i, milestone=i % 4 == 0) for i in range(1, 10)]
    assert serials(surplus(entries, 2)) == [1, 2, 3, 5, 6]


def test_a_limit_counts_its_group_only() -> None:
    entries = [entry(i, group="epoch" if i % 2 else "best_AP") for i in range(6)]
    assert serials(surplus(entries, 1, group="epoch")) == [1, 3]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.booleans(), st.booleans(), st.sampled_from(["epoch", "best_AP"])), max_size=8
    ),
    st.integers(0, 40),
)
def test_a_budget_holds_unless_what_must_stay_is_more(facts: list[tuple[int, bool, bool, str]], budget: int) -> None:
    entries = [
        entry(i, size=size, milestone=mile, resumable=resume, group=group)
        for i, (size, mile, resume, group) in enumerate(facts)
    ]
    dropped = surplus(entries, -1, budget=budget)
    left = [e for e in entries if e not in dropped]
    assert entries[-1:] == left[-1:]
    assert not any(e.is_best for e in dropped)
    resumable = [e for e in entries if e.resumable]
    assert not resumable or resumable[-1] in left
    may_go = [e for e in left if not e.is_best and e not in (left[-1], *resumable[-1:])]
    assert sum(e.size for e in left) <= budget or not may_go
    if any(e.milestone for e in dropped):  # last of all
        assert all(e.milestone for e in may_go)


def test_a_manifest_of_a_later_version_is_read() -> None:
    content = {"name": "a", "sha256": ["0"], "size": 1, "step": 2, "serial": 3, "colour": "red"}
    assert Manifest.from_json(json.dumps(content)).step == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "1"}, "its 'size' is '1'"),
        ({"sha256": "0"}, "its 'sha256' is '0'"),
        ({"step": -1}, "its 'step' is -1"),
        ({"scores": [1]}, "its 'scores'"),
        ({"files": {"a": ["0"]}}, "its 'files'"),
        ({"resumable": 1}, "its 'resumable' is 1"),
        ({"name": "../a"}, "its 'name'"),
        ({"name": "b"}, "it names 'b'"),
        ({"step": None}, "its 'step' is None"),
    ],
)
def test_wrong_types_are_named(change: dict[str, Any], words: str) -> None:
    content = {"name": "a", "sha256": ["0"], "size": 1, "step": 2, "serial": 3, **change}
    with pytest.raises(ValueError, match=words):
        Manifest.from_json(json.dumps(content), "a")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"name": "a"}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|no object|has no|property name"):
        Manifest.from_json(text)
