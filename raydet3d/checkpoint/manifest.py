"""Manifests of checkpoints, and the rule which of them are dropped: a pure function of what they say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's manifest.

    Args:
        name: The file's name; a folder's, where several ranks have written their shards.
        sha256: Digests that the file may have: one, but for the moment in which a file is replaced by one of its name.
        size: Bytes.
        step: Iterations finished.
        serial: Counts the saves into this folder.
        group: Those of a group share a keep-limit: ``epoch``, ``iter``, ``best_...``.
        run: The run that wrote it; the same after a resume.
        start: The start of the run (its timestamp) that wrote it.
        seed: The run's seed.
        scores: Metrics known when it was written.
        time: When it was written.
        versions: Of raydet3d and torch.
        config: Digest of the config's text.
        resumable: Whether training can go on from it; the best models, without the optimizer, are for use.
        milestone: Whether it stays whatever the keep-limit says.
        files: Of a sharded checkpoint: digest and bytes of each file, by its path inside the folder.
        world_size: Of a sharded checkpoint: the number of ranks that wrote it.
    """

    name: str
    sha256: list[str]
    size: int
    step: int
    serial: int
    group: str = ""
    run: str = ""
    start: str = ""
    seed: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    time: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    config: str = ""
    resumable: bool = True
    milestone: bool = False
    files: dict[str, list[Any]] = field(default_factory=dict)
    world_size: int = 1

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Manifest:
        """A manifest's content; keys of a later version are left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})

    @property
    def is_best(self) -> bool:
        """Whether it is one of the best models, and no regular checkpoint."""
        return self.group.startswith("best_")


def surplus(
    entries: Iterable[Manifest], limit: int, *, group: str | None = None, budget: int | None = None
) -> list[Manifest]:
    """Which of a run's checkpoints to drop.

    The limit counts regular checkpoints of a group: milestones stay beyond it. The budget counts the
    bytes of all, and drops the oldest regular ones first, then the oldest milestones. The newest checkpoint, the newest
    that training can go on from and the best models are never dropped for it.

    Args:
        entries: The run's checkpoints.
        limit: How many of the group to keep; all, below 1.
        group: The group; all together by default.
        budget: Bytes that they may have together.

    Returns:
        Those to drop, oldest first.
    """
    ordered = sorted(entries, key=lambda entry: entry.serial)
    counted = [e for e in ordered if not e.milestone and (group is None or e.group == group)]
    dropped = counted[:-limit] if limit > 0 else []
    if budget is None:
        return dropped
    left = [e for e in ordered if e not in dropped]
    safe = {e.name for e in left[-1:]} | {e.name for e in [e for e in left if e.resumable][-1:]}
    total = sum(e.size for e in left)
    for entry in sorted(left, key=lambda e: (e.milestone, e.serial)):
        if total <= budget:
            break
        if not entry.is_best and entry.name not in safe:
            dropped.append(entry)
            total -= entry.size
    return sorted(dropped, key=lambda entry: entry.serial)
