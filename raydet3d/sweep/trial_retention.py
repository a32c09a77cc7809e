"""Retention of a sweep's checkpoints: a pure rule, and the policy that applies it under a lock.

One checkpoint of a sweep is written at a time, and room is made before the next one is: so the folder never holds more
than its byte budget and the one that is being written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet3d.checkpoint.manifest import SUFFIX
from raydet3d.checkpoint.retention import select_to_delete
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.files import locked
from raydet3d.log import get_logger
from raydet3d.sweep.spec import Keep
from raydet3d.sweep.trial_store import DONE, OPEN, STOPPED, TrialStore

PINS = "pins"
BUSY = "another checkpoint of the sweep is being written for 30 minutes"
MARGIN = 1 << 20  # for logs, and what Ray Tune writes about itself, between two checkpoints


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint on the disk.

    Args:
        trial: Whose.
        name: File name.
        serial: Counts the saves into its folder.
        step: Iterations finished.
        size: Bytes.
        score: The sweep's metric, where it was validated.
        generation: Start that wrote it.
    """

    trial: str
    name: str
    serial: int
    step: int
    size: int
    score: float | None
    generation: str


def select_of_sweep(
    checkpoints: Sequence[CheckpointInfo], *, ranking: Sequence[Mapping[str, Any]], keep: Keep, mode: str, over: int = 0
) -> list[CheckpointInfo]:
    """Select the checkpoints to delete, in order.

    First what the counts do not want: beyond each trial's `last` newest and `best` best, and all of trials that
    have ended outside the best `trials`. Then, as long as the folder is `over` its budget by some bytes: of ended
    trials from the worst to the best, of running ones what is not their newest, and their newest from the worst on. The
    best checkpoint of the best trial never goes.

    Args:
        checkpoints: All checkpoints of the sweep.
        ranking: Trials, best first: `id` and `state`.
        keep: The limits.
        mode: `max` or `min`.
        over: Bytes too many before anything is dropped.
    """
    place = {entry["id"]: i for i, entry in enumerate(ranking)}
    ended_well = [entry["id"] for entry in ranking if entry["state"] in (DONE, STOPPED)]
    is_open = {entry["id"]: entry["state"] in OPEN for entry in ranking}
    of_trial: dict[str, list[CheckpointInfo]] = {}
    for one in sorted(checkpoints, key=lambda one: one.serial):
        of_trial.setdefault(one.trial, []).append(one)
    order = sorted(of_trial, key=lambda trial: place.get(trial, len(place)))  # best trial first
    scored = [trial for trial in order if any(one.score is not None for one in of_trial[trial])]
    protected = _best(of_trial[scored[0]], 1, mode) if scored else []

    wanted = list(protected)
    for trial in order:
        mine = of_trial[trial]
        is_ended = not is_open.get(trial, True)
        if not is_ended:
            wanted.append(mine[-1])  # what it would go on from
        if not is_ended or keep.trials is None or trial in ended_well[: keep.trials]:
            wanted += [*(mine[-keep.last :] if keep.last else []), *_best(mine, keep.best, mode)]

    def eviction_order(one: CheckpointInfo) -> tuple[int, int, int]:
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


def _best(checkpoints: Sequence[CheckpointInfo], count: int, mode: str) -> list[CheckpointInfo]:
    scored = [one for one in checkpoints if one.score is not None]
    sign = -1.0 if mode == "max" else 1.0
    return sorted(scored, key=lambda one: (sign * float(one.score or 0.0), one.serial))[:count]


class RetentionPolicy:
    """Applies the rule to a sweep's folder; every process of the sweep has one.

    Args:
        folder: The sweep's folder.
        keep: The limits.
        metric: Whole name of the metric.
        mode: `max` or `min`.
    """

    def __init__(self, folder: Path, keep: Keep, *, metric: str, mode: str) -> None:
        self.store = TrialStore(folder)
        self.keep = keep
        self.metric = metric
        self.mode = mode

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock under which the sweep's one checkpoint at a time is written, and make room for the next one."""
        with locked(self.store.path / ".keep.lock", timeout_s=1800, busy=BUSY):
            self._prune()
            yield
            self._prune()

    def prune(self, *, room: int = 0) -> None:
        """Apply the rule now.

        Args:
            room: Bytes that something else is about to be written with.
        """
        with locked(self.store.path / ".keep.lock", timeout_s=1800, busy=BUSY):
            self._prune(room)

    def pin(self, source: Path, name: str) -> Path | None:
        """Keep a checkpoint under a second name, so that it stays whatever becomes of the first.

        Args:
            source: The checkpoint; where it is gone, its trial's newest one is taken.
            name: The second name.

        Returns:
            Where it lies now; None where its trial has none.
        """
        pins = self.store.path / PINS
        pins.mkdir(exist_ok=True)
        target = pins / name
        with locked(self.store.path / ".keep.lock", timeout_s=1800, busy=BUSY):
            for path in (source, *reversed([source.parent / one.name for one in self.checkpoints(source.parent)])):
                with suppress(OSError):
                    _remove(target)
                    if path.is_dir():  # of shards
                        shutil.copytree(path, target, copy_function=os.link)
                    else:
                        os.link(path, target)
                    return target
        return None

    def unpin(self, path: str | Path | None) -> None:
        """Delete the second name of a checkpoint."""
        if path is not None and Path(path).parent.name == PINS:
            _remove(Path(path))

    def checkpoints(self, folder: Path) -> list[CheckpointInfo]:
        """Return a trial's checkpoints, oldest first."""
        return [
            CheckpointInfo(
                trial=folder.name,
                name=manifest.name,
                serial=manifest.serial,
                step=manifest.step,
                size=sum(_size(folder / name) for name in (manifest.name, manifest.name + SUFFIX)),
                score=manifest.scores.get(self.metric),
                generation=manifest.start,
            )
            for manifest in CheckpointStore(folder).manifests()
        ]

    def _prune(self, room: int = 0) -> None:
        folders = [path for path in self.store.trials.iterdir() if path.is_dir()] if self.store.trials.is_dir() else []
        checkpoints = [one for folder in folders for one in self.checkpoints(folder)]
        over = 0
        if self.keep.bytes is not None:
            over = usage(self.store.path) + room - self.keep.bytes + min(MARGIN, self.keep.bytes // 4)
        ranking = self._ranking(checkpoints)
        for one in select_of_sweep(checkpoints, ranking=ranking, keep=self.keep, mode=self.mode, over=over):
            path = self.store.folder(one.trial) / one.name
            try:
                path.with_name(path.name + SUFFIX).unlink(missing_ok=True)  # without it, the other does not exist
                _remove(path)
            except OSError as error:
                get_logger().warning("checkpoint %s could not be deleted: %s", path, error.strerror)

    def _ranking(self, checkpoints: Sequence[CheckpointInfo]) -> list[dict[str, Any]]:
        """Return the last written ranking, corrected by scores that are newer than it."""
        ranking = self.store.standing()
        sign = 1.0 if self.mode == "max" else -1.0
        newer: dict[str, float] = {}
        for one in checkpoints:
            if one.score is not None:
                newer[one.trial] = max(newer.get(one.trial, -float("inf")), sign * one.score)
        known = {entry["id"] for entry in ranking}
        ranking += [{"id": trial, "state": "running", "best": None} for trial in newer if trial not in known]
        seeds = len({entry["id"].split("-")[0] for entry in ranking}) < len(ranking)
        if seeds:  # ranked by means over seeds, which the driver knows
            return ranking

        def value(entry: Mapping[str, Any]) -> float:
            best = -float("inf") if entry.get("best") is None else sign * float(entry["best"])
            return -float("inf") if entry["state"] == "failed" else max(best, newer.get(entry["id"], best))

        return sorted(ranking, key=value, reverse=True)


def usage(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk; what has two names counts once."""
    total, seen = 0, set[tuple[int, int]]()
    for root, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            try:
                stat = os.lstat(os.path.join(root, name))
            except OSError:
                continue
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += max(stat.st_size, stat.st_blocks * 512)
    return total


def _remove(path: Path) -> None:
    """Delete a checkpoint: a file, or a folder of shards; one that is not there is as good as deleted."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes that deleting a checkpoint frees."""
    files = [Path(root, name) for root, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
    total = 0
    for file in files:
        with suppress(OSError):
            stat = file.stat()
            if stat.st_nlink == 1:  # with a second name elsewhere, deleting this one frees nothing
                total += max(stat.st_size, stat.st_blocks * 512)
    return total
