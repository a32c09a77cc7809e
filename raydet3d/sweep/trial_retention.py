"""Retention of a sweep's checkpoints: what to delete, and the policy that deletes it under a lock.

One checkpoint of a sweep is written at a time, and room is made before the next one is: so the folder never holds more
than its byte budget and the one that is being written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from raydet3d.checkpoint.manifest import Manifest
from raydet3d.checkpoint.retention import select_to_delete
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.files import locked
from raydet3d.sweep.spec import Keep
from raydet3d.sweep.trial_store import DONE, FAILED, OPEN, RUNNING, STOPPED, Rank, TrialStore

BUSY = "another checkpoint of the sweep is being written for 30 minutes"
MARGIN = 1 << 20  # for logs, and what Ray Tune writes about itself, between two checkpoints


@dataclass(frozen=True)
class TrialCheckpoint:
    """A checkpoint of a trial.

    Args:
        trial: The trial.
        manifest: The checkpoint's manifest.
        score: The sweep's metric, where it was validated.
    """

    trial: str
    manifest: Manifest
    score: float | None

    @property
    def size(self) -> int:
        """Bytes that deleting it frees."""
        return self.manifest.size


def needs_ranking(keep: Keep) -> bool:
    """Whether it depends on other trials which checkpoints of a running one are deleted."""
    return keep.num_bytes is not None or keep.best == 0


def select_of_sweep(
    checkpoints: Sequence[TrialCheckpoint], *, ranking: Sequence[Rank], keep: Keep, mode: str, over: int = 0
) -> list[TrialCheckpoint]:
    """Select the checkpoints to delete, in order.

    First what the counts do not want: beyond each trial's `last` newest and `best` best, and all of trials that
    have ended outside the best `trials`. Then, as long as the folder is `over` its budget by some bytes: of ended
    trials from the worst to the best, of running ones what is not their newest, and their newest from the worst on. The
    best checkpoint of the best trial is never selected.

    Args:
        checkpoints: Checkpoints of the sweep, or of some of its trials.
        ranking: All trials, best first.
        keep: The limits.
        mode: `max` or `min`.
        over: Bytes too many before anything is dropped.
    """
    place = {entry["id"]: i for i, entry in enumerate(ranking)}
    ended_well = [entry["id"] for entry in ranking if entry["state"] in (DONE, STOPPED)]
    is_open = {entry["id"]: entry["state"] in OPEN for entry in ranking}
    of_trial: dict[str, list[TrialCheckpoint]] = {}
    for one in sorted(checkpoints, key=lambda one: one.manifest.serial):
        of_trial.setdefault(one.trial, []).append(one)
    order = sorted(of_trial, key=lambda trial: place.get(trial, len(place)))  # best trial first
    leader = next((entry["id"] for entry in ranking if entry["best"] is not None), None)
    protected = _best(of_trial.get(leader or "", []), 1, mode)

    wanted = list(protected)
    for trial in order:
        mine = of_trial[trial]
        is_ended = not is_open.get(trial, True)
        if not is_ended:
            wanted.append(mine[-1])  # what it would resume from
        if not is_ended or keep.trials is None or trial in ended_well[: keep.trials]:
            wanted += [*(mine[-keep.last :] if keep.last else []), *_best(mine, keep.best, mode)]

    def eviction_order(one: TrialCheckpoint) -> tuple[int, int, int]:
        running = is_open.get(one.trial, True)
        newest = one is of_trial[one.trial][-1]
        worst_first = -place.get(one.trial, len(place))
        is_best = one in _best(of_trial[one.trial], 1, mode)
        return (0 if not running else 2 if newest else 1, worst_first, 1 if is_best else 0)

    return select_to_delete(
        [one for trial in order for one in of_trial[trial]],
        is_wanted=lambda one: one in wanted,
        may_go=lambda one: one not in protected,
        eviction_order=eviction_order,
        over=over,
    )


def _best(checkpoints: Sequence[TrialCheckpoint], count: int, mode: str) -> list[TrialCheckpoint]:
    scored = [one for one in checkpoints if one.score is not None]
    sign = -1.0 if mode == "max" else 1.0
    return sorted(scored, key=lambda one: (sign * float(one.score or 0.0), one.manifest.serial))[:count]


class RetentionPolicy:
    """Deletes checkpoints of a sweep; every process of the sweep has one.

    Args:
        folder: The sweep's folder.
        keep: The limits.
        metric: Whole name of the metric.
        mode: `max` or `min`.
        ranking: Returns the trials' ranking; by default, the last one that was written is read.
    """

    def __init__(
        self,
        folder: Path,
        keep: Keep,
        *,
        metric: str,
        mode: str,
        ranking: Callable[[], Sequence[Rank]] | None = None,
    ) -> None:
        self.store = TrialStore(folder)
        self.keep = keep
        self.metric = metric
        self.mode = mode
        self._ranking = ranking or self.store.ranking
        self._empty: set[str] = set()  # trials that have ended and have no checkpoint left

    @contextmanager
    def writing(self, trial: str) -> Iterator[None]:
        """Hold the lock under which the sweep's one checkpoint at a time is written, and make room for the next one."""
        names = [trial] if self.keep.num_bytes is None else None  # of ended trials, the driver deletes
        with self.locked():
            self._prune(names, self._ranking() if needs_ranking(self.keep) else [])
            yield
            self._prune(names, self._ranking() if needs_ranking(self.keep) else [])

    def prune(self, trial: str | None = None, *, room: int = 0) -> None:
        """Delete what is not to be kept.

        Args:
            trial: The trial that has ended; None for all.
            room: Bytes that something else is about to be written with.
        """
        is_alone = self.keep.num_bytes is None and self.keep.trials is None  # its end changes nothing for the others
        with self.locked():
            self._prune([trial] if trial is not None and is_alone else None, self._ranking(), room)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which checkpoints of the sweep are written and deleted."""
        with locked(self.store.path / ".keep.lock", timeout_s=1800, busy=BUSY):
            yield

    def checkpoints(self, trial: str) -> list[TrialCheckpoint]:
        """Return a trial's checkpoints, oldest first."""
        manifests = CheckpointStore(self.store.folder(trial)).manifests()
        return [TrialCheckpoint(trial, manifest, manifest.scores.get(self.metric)) for manifest in manifests]

    def _prune(self, names: Sequence[str] | None, ranking: Sequence[Rank], room: int = 0) -> None:
        """Delete checkpoints of some trials; None for all."""
        if names is None:
            folders = self.store.trials.iterdir() if self.store.trials.is_dir() else ()
            names = [path.name for path in folders if path.name not in self._empty and path.is_dir()]
        limit = self.keep.num_bytes
        # Deleting a file that has a second name frees nothing, so what a limit leaves is measured again.
        for _ in range(1 if limit is None else 2):
            checkpoints = [one for name in names for one in self.checkpoints(name)]
            over = 0 if limit is None else usage(self.store.path) + room - limit + min(MARGIN, limit // 4)
            known = _with_newer_scores(ranking, checkpoints, self.mode)
            to_delete = select_of_sweep(checkpoints, ranking=known, keep=self.keep, mode=self.mode, over=over)
            for one in to_delete:
                CheckpointStore(self.store.folder(one.trial)).delete(one.manifest)
        left = {one.trial for one in checkpoints if one not in to_delete}
        self._empty |= {entry["id"] for entry in ranking if entry["state"] not in OPEN and entry["id"] in names} - left


def _with_newer_scores(ranking: Sequence[Rank], checkpoints: Iterable[TrialCheckpoint], mode: str) -> list[Rank]:
    """Return the last written ranking, corrected by scores that are newer than it."""
    sign = 1.0 if mode == "max" else -1.0
    newer: dict[str, float] = {}
    for one in checkpoints:
        if one.score is not None:
            newer[one.trial] = max(newer.get(one.trial, -float("inf")), sign * one.score)
    known = {entry["id"] for entry in ranking}
    every = [*ranking, *(Rank(id=trial, state=RUNNING, best=None) for trial in newer if trial not in known)]
    if len({entry["id"].split("-")[0] for entry in every}) < len(every):  # ranked by means over seeds, by the driver
        return every
    scores = {entry["id"]: sign * entry["best"] for entry in every if entry["best"] is not None}
    for trial, score in newer.items():
        scores[trial] = max(score, scores.get(trial, score))
    corrected = [
        Rank(id=entry["id"], state=entry["state"], best=sign * scores[entry["id"]] if entry["id"] in scores else None)
        for entry in every
    ]
    worst = -float("inf")
    return sorted(corrected, key=lambda one: (one["state"] != FAILED, scores.get(one["id"], worst)), reverse=True)


def usage(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk; what has two names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for root, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            with suppress(OSError):
                stat = os.lstat(os.path.join(root, name))
                sizes[stat.st_dev, stat.st_ino] = max(stat.st_size, stat.st_blocks * 512)
    return sum(sizes.values())
