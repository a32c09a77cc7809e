"""Which checkpoints of a run are deleted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydet3d.checkpoint.manifest import Manifest
from raydet3d.checkpoint.retention import select_of_run


def entry(serial: int, **facts: object) -> Manifest:
    return Manifest(**{"name": str(serial), "sha256": [], "size": 1, "step": serial, "serial": serial, **facts})


def serials(entries: list[Manifest]) -> list[int]:
    return [e.serial for e in entries]


@given(st.lists(st.integers(0, 50), unique=True), st.integers(-1, 6))
def test_limit_keeps_the_newest(numbers: list[int], limit: int) -> None:
    dropped = set(serials(select_of_run([entry(s) for s in numbers], limit)))
    kept = set(numbers) - dropped
    assert len(kept) == (min(limit, len(numbers)) if limit > 0 else len(numbers))
    assert not kept or not dropped or min(kept) > max(dropped)


def test_milestones_are_kept_beyond_the_limit() -> None:
    entries = [entry(i, milestone=i % 4 == 0) for i in range(1, 10)]
    assert serials(select_of_run(entries, 2)) == [1, 2, 3, 5, 6]


def test_limit_counts_its_group_only() -> None:
    entries = [entry(i, group="epoch" if i % 2 else "best_AP") for i in range(6)]
    assert serials(select_of_run(entries, 1, group="epoch")) == [1, 3]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.booleans(), st.booleans(), st.sampled_from(["epoch", "best_AP"])), max_size=8
    ),
    st.integers(0, 40),
)
def test_budget_never_deletes_the_newest_or_the_best(facts: list[tuple[int, bool, bool, str]], budget: int) -> None:
    entries = [
        entry(i, size=size, milestone=mile, resumable=resume, group=group)
        for i, (size, mile, resume, group) in enumerate(facts)
    ]
    dropped = select_of_run(entries, -1, budget=budget)
    left = [e for e in entries if e not in dropped]
    assert entries[-1:] == left[-1:]
    assert not any(e.is_best for e in dropped)
    resumable = [e for e in entries if e.resumable]
    assert not resumable or resumable[-1] in left
    may_go = [e for e in left if not e.is_best and e not in (left[-1], *resumable[-1:])]
    assert sum(e.size for e in left) <= budget or not may_go
    if any(e.milestone for e in dropped):  # last of all
        assert all(e.milestone for e in may_go)
