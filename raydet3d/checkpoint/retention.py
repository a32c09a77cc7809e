"""Which checkpoints are deleted: one rule for a run and for a sweep, a pure function of what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from raydet3d.checkpoint.manifest import Manifest


class Sized(Protocol):
    """A checkpoint of which the bytes are known."""

    @property
    def size(self) -> int:
        """Bytes that deleting it frees."""


SizedT = TypeVar("SizedT", bound=Sized)


def select_to_delete(
    checkpoints: Sequence[SizedT],
    *,
    is_wanted: Callable[[SizedT], bool],
    may_go: Callable[[SizedT], bool],
    eviction_order: Callable[[SizedT], Any],
    over: int,
) -> list[SizedT]:
    """Select the checkpoints to delete: those that no count wants, then more of them while there are too many bytes.

    Args:
        checkpoints: All of them.
        is_wanted: Whether a count (the newest, the best, milestones) keeps it.
        may_go: Whether one that a count keeps may go for the sake of the bytes.
        eviction_order: Sorts those that may go; the least goes first.
        over: Bytes too many before anything is deleted.

    Returns:
        Those to delete, in order.
    """
    dropped = [one for one in checkpoints if not is_wanted(one)]
    freed = sum(one.size for one in dropped)
    left = [one for one in checkpoints if is_wanted(one) and may_go(one)]
    for one in sorted(left, key=eviction_order):
        if freed >= over:
            break
        dropped.append(one)
        freed += one.size
    return dropped


def select_of_run(
    manifests: Iterable[Manifest], limit: int, *, group: str | None = None, budget: int | None = None
) -> list[Manifest]:
    """Select which of a run's checkpoints to delete.

    The limit counts the regular checkpoints of a group; milestones stay beyond it. The budget counts the bytes of all:
    the oldest regular checkpoints go first, then the oldest milestones. The newest checkpoint, the newest that a run
    can resume from and the best models always stay.

    Args:
        manifests: The run's checkpoints.
        limit: How many of the group to keep; below 1, all.
        group: The group; all together by default.
        budget: Bytes that they may have together.

    Returns:
        Those to delete, oldest first.
    """
    ordered = sorted(manifests, key=lambda manifest: manifest.serial)
    counted = [m for m in ordered if not m.milestone and (group is None or m.group == group)]
    unwanted = {m.name for m in counted[:-limit]} if limit > 0 else set()
    left = [m for m in ordered if m.name not in unwanted]
    safe = {m.name for m in left[-1:]} | {m.name for m in [m for m in left if m.resumable][-1:]}
    dropped = select_to_delete(
        ordered,
        is_wanted=lambda m: m.name not in unwanted,
        may_go=lambda m: not m.is_best and m.name not in safe,
        eviction_order=lambda m: (m.milestone, m.serial),
        over=0 if budget is None else sum(m.size for m in ordered) - budget,
    )
    return sorted(dropped, key=lambda manifest: manifest.serial)
