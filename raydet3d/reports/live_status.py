"""The state of a run that is at work elsewhere, from its files alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from raydet3d.checkpoint.storage import Location, open_storage
from raydet3d.errors import InputError
from raydet3d.reports.run_files import (
    SCALARS,
    StartRecord,
    bad_steps_of,
    parse_config,
    read_checkpoints,
    read_config_text,
    read_reached,
    read_starts,
    read_tail,
)
from raydet3d.run_status import RunStatus

STALLED_S = 300.0
"""Seconds without a sign of life after which a run is called stalled, or 20 iterations where that is longer."""


class StatusReader:
    """Reads the state of a run again and again.

    Args:
        location: The work dir: a folder, or a URI.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._storage = open_storage(location)

    def read(self) -> RunStatus:
        """Return the present state.

        Raises:
            InputError: There is no run, or the storage cannot be read.
        """
        try:
            names = self._storage.names()
        except OSError as error:
            raise InputError(f"{self.location}: cannot be read: {error.strerror or error}") from None
        starts, _, is_finished = read_starts(self._storage)
        tail = read_tail(self._storage)
        manifests = read_checkpoints(self._storage, names)
        if not (starts or tail or manifests):
            raise InputError(f"{self.location}: there is no run here yet: no {SCALARS}, no starts and no checkpoint")
        start: StartRecord = starts[-1] if starts else {}
        status = RunStatus(name=str(self.location), restarts=max(len(starts) - 1, 0), workers=start.get("workers"))
        status.max_iters, status.max_epochs = self._length(start, names, starts)
        line: Mapping[str, object] = next((one for one in reversed(tail) if one.get("mode") == "train"), {})
        reached, touched = read_reached(self._storage)
        self._take_line(status, line, reached, start)
        status.bad_steps = sum(len(bad_steps_of(one.get("bad_steps"))) for one in tail if one.get("mode") == "guard")
        for manifest in manifests:
            key = manifest.group.removeprefix("best_")
            if manifest.is_best and key in manifest.scores:
                status.best[key] = manifest.scores[key]
        regular = [manifest for manifest in manifests if not manifest.is_best]
        status.checkpoint = regular[-1].name if regular else None
        times = [touched] if touched is not None else []
        times += [self._storage.stat(SCALARS)[1] / 1e9] if SCALARS in names else []
        status.updated_s = max(time.time() - max(times), 0.0) if times else None
        status.state = _state(status, is_finished, line)
        return status

    def _length(
        self, start: StartRecord, names: list[str], starts: Sequence[StartRecord]
    ) -> tuple[int | None, int | None]:
        """Return iterations and epochs to train, as the start or the config says."""
        if "max_iters" in start:
            return start["max_iters"], start.get("max_epochs")
        name, text = read_config_text(self._storage, names, list(starts))
        loop = parse_config(name, text).get("train_cfg") or {}
        return loop.get("max_iters"), loop.get("max_epochs")

    @staticmethod
    def _take_line(status: RunStatus, line: Mapping[str, object], reached: int | None, start: StartRecord) -> None:
        """Take the newest training line; the number of iterations is fresher than that."""
        logged = line.get("iter")
        known = [value for value in (reached, logged, start.get("iteration")) if isinstance(value, int)]
        status.iteration = max(known, default=None) if reached is None else reached
        epoch = line.get("epoch")
        status.epoch = int(epoch) if isinstance(epoch, int) else None
        if status.max_iters and status.max_epochs and status.iteration is not None:
            length = max(status.max_iters // status.max_epochs, 1)
            status.epoch = min(status.iteration // length + 1, status.max_epochs)
        status.read_scalars(line, start.get("batch_size"))
        seconds = line.get("time")
        if isinstance(seconds, int | float) and status.max_iters and status.iteration is not None:
            status.eta_s = seconds * max(status.max_iters - status.iteration, 0)


def _state(status: RunStatus, is_finished: bool, line: Mapping[str, object]) -> str:
    if is_finished:
        return "finished"
    seconds = line.get("time")
    patience = max(STALLED_S, 20 * seconds if isinstance(seconds, int | float) else 0)
    if status.updated_s is not None and status.updated_s > patience:
        return "stopped or stalled"
    return "running"
