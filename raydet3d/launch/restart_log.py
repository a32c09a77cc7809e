"""`RestartLogHook`: logs each start and end of a run, and how many iterations a restart repeats."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from raydet3d import dist
from raydet3d.hooks.base import Hook
from raydet3d.launch.restart_file import REACHED, append_start, read_reached, read_starts

if TYPE_CHECKING:
    from raydet3d.hooks.context import RunContext


class RestartLogHook(Hook):
    """Log each start and end of a run, and say how many iterations a start repeats.

    Args:
        why: Why this start was made, where it was not the user.
    """

    priority = "VERY_HIGH"

    def __init__(self, *, why: str = "") -> None:
        self._why = why
        self._reached = -1

    def before_train(self, runner: RunContext) -> None:
        """Compare where the run stands with how far it had come."""
        if runner.rank != 0:
            return
        folder, here = runner.work_dir, runner.iter
        starts = [entry for entry in read_starts(folder) if entry.get("run") == runner.run_name and "from" in entry]
        reached = read_reached(folder)
        reached = reached if starts else None
        redone = max(0, (reached if reached is not None else here) - here)
        restarts = len(starts)
        total = redone + sum(entry["redone"] for entry in starts)
        entry = {"from": here, "redone": redone, "workers": runner.world_size, "why": self._why}
        _append(runner, entry)
        if restarts:
            runner.logger.info(
                "restart %d of this run%s: it goes on after iteration %d; %s. In all, %d iterations were done twice.",
                restarts,
                f" ({self._why})" if self._why else "",
                here,
                f"it had come to {reached}, so {redone} are done again" if redone else "nothing is done again",
                total,
            )
        runner.visualizer.add_scalars({"run/restarts": restarts, "run/redone_iterations": total}, step=here)
        self._reached = os.open(folder / REACHED, os.O_WRONLY | os.O_CREAT, 0o644)
        self._write(here)

    def after_train_iter(self, runner: RunContext, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note how far the run has come."""
        if self._reached >= 0:
            self._write(runner.iter + 1)

    def _write(self, iteration: int) -> None:
        os.pwrite(self._reached, b"%012d\n" % iteration, 0)

    def finish(self, runner: RunContext, result: dict[str, Any]) -> bool:
        """Note that the run came to its end, with its result.

        Returns:
            Whether the last weights are kept: else the run is not finished.
        """
        is_lost = any(store.has_lost(runner.iter) for store in runner.stores)
        is_kept: bool = dist.broadcast_object(not is_lost)
        if runner.rank == 0:
            own = [m for store in runner.stores for m in store.manifests() if m.run == runner.run_name]
            saved = max((m.step for m in own if not m.is_best), default=None)
            end = {"finished": is_kept, "iter": runner.iter, "saved": saved, "result": result}
            _append(runner, end)
            runner.push_logs()
        return is_kept

    def close(self) -> None:
        """Give the file back."""
        if self._reached >= 0:
            os.close(self._reached)
            self._reached = -1


def _append(runner: RunContext, entry: dict[str, Any]) -> None:
    line = {"run": runner.run_name, "start": runner.timestamp, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}
    append_start(runner.work_dir, line)
