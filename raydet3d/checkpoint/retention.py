"""Which checkpoints are deleted: a pure function of their manifests."""

from __future__ import annotations

from collections.abc import Iterable

from raydet3d.checkpoint.manifest import Manifest


def surplus(
    manifests: Iterable[Manifest], limit: int, *, group: str | None = None, budget: int | None = None
) -> list[Manifest]:
    """Which of a run's checkpoints to delete.

    The limit counts the regular checkpoints of a group; milestones stay beyond it. The budget counts the bytes of all:
    the oldest regular checkpoints go first, then the oldest milestones. The newest checkpoint, the newest that training
    can go on from and the best models always stay.

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
    dropped = counted[:-limit] if limit > 0 else []
    if budget is None:
        return dropped
    left = [m for m in ordered if m not in dropped]
    safe = {m.name for m in left[-1:]} | {m.name for m in [m for m in left if m.resumable][-1:]}
    total = sum(m.size for m in left)
    for manifest in sorted(left, key=lambda m: (m.milestone, m.serial)):
        if total <= budget:
            break
        if not manifest.is_best and manifest.name not in safe:
            dropped.append(manifest)
            total -= manifest.size
    return sorted(dropped, key=lambda manifest: manifest.serial)
