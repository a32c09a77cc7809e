"""`RestartLogHook`: logs each start and end of a run, and how many iterations a restart repeats."""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from raydet3d import __version__, dist
from raydet3d.checkpoint.log_upload import REACHED, STARTS
from raydet3d.files import append_json_line
from raydet3d.hooks.base import Hook, global_batch_size
from raydet3d.host import Machine, describe_machine
from raydet3d.launch.restart_file import RestartEntry, read_reached, read_starts
from raydet3d.run_status import RunResult

if TYPE_CHECKING:
    from raydet3d.hooks.context import DataBatch, Losses, RunContext


class RestartLogHook(Hook):
    """Log each start and end of a run, and say how many iterations a start repeats.

    Args:
        why: Why this start was made, where it was not the user.
    """

    priority = "VERY_HIGH"

    def __init__(self, *, why: str = "") -> None:
        self._why = why
        self._reached = -1

    @override
    def before_train(self, runner: RunContext) -> None:
        device = torch.cuda.get_device_name(runner.device) if runner.device.type == "cuda" else "CPU"
        machines: list[Machine] = dist.all_gather_object({**describe_machine(), "device": device})
        if runner.rank != 0:
            return
        folder, here = runner.work_dir, runner.iter
        starts = [entry for entry in read_starts(folder) if entry.get("run") == runner.run_name and "from" in entry]
        reached = read_reached(folder) if starts else None
        redone = 0 if reached is None else max(0, reached - here)
        restarts = len(starts)
        total = redone + sum(entry["redone"] for entry in starts)
        _append(
            runner,
            {
                "from": here,
                "redone": redone,
                "workers": runner.world_size,
                "why": self._why,
                "max_iters": runner.max_iters,
                "max_epochs": runner.max_epochs,
                "batch_size": global_batch_size(runner.train_dataloader),
                "config": None if runner.cfg.filename is None else os.path.abspath(runner.cfg.filename),
                "versions": {"raydet3d": __version__, "torch": torch.__version__, "python": platform.python_version()},
                "machines": machines,
            },
        )
        if restarts:
            runner.logger.info(
                "restart %d of this run%s: it resumes after iteration %d; %s. In all, %d iterations were done twice.",
                restarts,
                f" ({self._why})" if self._why else "",
                here,
                f"it had come to {reached}, so {redone} are done again" if redone else "nothing is done again",
                total,
            )
        runner.visualizer.add_scalars({"run/restarts": restarts, "run/redone_iterations": total}, step=here)
        self._reached = os.open(folder / REACHED, os.O_WRONLY | os.O_CREAT, 0o644)
        self._write(here)

    @override
    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        if self._reached >= 0:
            self._write(runner.iter + 1)

    def _write(self, iteration: int) -> None:
        os.pwrite(self._reached, b"%012d\n" % iteration, 0)

    def finish(self, runner: RunContext, result: RunResult) -> bool:
        """Note that the run came to its end, with its result.

        Returns:
            Whether the last weights are kept: else the run is not finished.
        """
        is_lost = any(store.has_lost(runner.iter) for store in runner.stores)
        is_kept: bool = dist.broadcast_object(not is_lost)
        if runner.rank == 0:
            own = [m for store in runner.stores for m in store.manifests() if m.run == runner.run_name]
            saved = max((m.step for m in own if not m.is_best), default=None)
            _append(runner, {"finished": is_kept, "iter": runner.iter, "saved": saved, "result": result})
            runner.push_logs()
        return is_kept

    def close(self) -> None:
        """Give the file back."""
        if self._reached >= 0:
            os.close(self._reached)
            self._reached = -1


def _append(runner: RunContext, entry: RestartEntry) -> None:
    entry |= {"run": runner.run_name, "start": runner.timestamp, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    append_json_line(runner.work_dir / STARTS, entry)
