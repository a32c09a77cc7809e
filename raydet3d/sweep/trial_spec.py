"""One trial as plain data, and the hook by which its run reports, saves and is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.files import append_json_line
from raydet3d.hooks.base import Hook
from raydet3d.launch.failures import NonFiniteError
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.signal_channel import Report
from raydet3d.sweep.spec import Keep
from raydet3d.sweep.stop_rules import matching_metrics
from raydet3d.sweep.trial_retention import RetentionPolicy
from raydet3d.sweep.trial_store import REPORTS, TrialReport, TrialStore, read_json, write_json

if TYPE_CHECKING:
    from raydet3d.hooks.context import DataBatch, Losses, Metrics, RunContext

END = "end.json"


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One trial, for the processes that run it.

    Args:
        id: Its name.
        sweep: The sweep's folder.
        run: The run.
        options: What it asks of Ray.
        counter: `epoch` or `iter`: what the run's length and its schedules of early stopping count.
        length: Its length.
        metric: Whole name of the metric.
        mode: `max` or `min`.
        keep: Limits of checkpoints.
        generation: How often it has continued from another trial.
        pointers: Whether reports carry a pointer to their checkpoint: where trials are paused, or copied.
    """

    id: str
    sweep: str
    run: RunSpec
    options: RayOptions
    counter: str
    length: float
    metric: str
    mode: str
    keep: Keep
    generation: int = 0
    pointers: bool = False

    def __str__(self) -> str:
        return self.id

    __repr__ = __str__  # Ray Tune makes a tag of it

    @property
    def name(self) -> str:
        """Name of the run in the cluster."""
        return f"{self.id}-gen{self.generation}"

    @property
    def folder(self) -> Path:
        """The trial's folder."""
        return TrialStore(Path(self.sweep)).folder(self.id)

    def end(self, state: str, reason: str = "") -> None:
        """Write down how the trial ended."""
        write_json(self.folder / END, {"state": state, "reason": reason, "generation": self.generation})


def read_end(folder: Path, generation: int) -> tuple[str, str] | None:
    """Return the state and reason with which a trial has ended; None if it has not.

    Args:
        folder: Its folder.
        generation: Which of its generations.
    """
    found = read_json(folder / END)
    if not isinstance(found, dict) or found.get("generation") != generation or not isinstance(found.get("state"), str):
        return None
    return found["state"], str(found.get("reason", ""))


class TrialHook(Hook):
    """Reports each validation, saves a checkpoint to resume from, and stops the run on request.

    The order is: the report into the trial's own file, the checkpoint with its manifest, then the report to the
    driver. Whatever is killed in between, the trial can be resumed from what the driver knows of.

    Args:
        trial: The trial.
        send: Hands a report on (rank 0 only) and returns whether the run continues.
    """

    priority = "LOWEST"

    def __init__(self, trial: TrialSpec, send: Callable[[Report], bool]) -> None:
        self.trial = trial
        self.send = send
        self.retention = RetentionPolicy(Path(trial.sweep), trial.keep, metric=trial.metric, mode=trial.mode)
        self._since = time.monotonic()
        self._steps = 0
        self._best: float | None = None

    @override
    def before_run(self, runner: RunContext) -> None:
        runner.store.keep_other_runs = False  # a trial that is given another one's weights leaves its own behind
        self._since = time.monotonic()

    @override
    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        self._steps += 1

    @override
    def after_train_epoch(self, runner: RunContext) -> None:
        """Save where no validation is to follow."""
        loop = runner.train_loop
        if not loop.by_epoch:
            return
        done = runner.epoch + 1
        due = done >= loop.val_begin and (done % loop.val_interval == 0 or done == loop.max_epochs)
        if not due:
            self._save(runner, done, {})

    @override
    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Report and save.

        Raises:
            InputError: Validation does not compute the sweep's metric.
        """
        scalars = {key: float(value) for key, value in (metrics or {}).items() if isinstance(value, int | float)}
        found = matching_metrics(self.trial.metric, scalars)  # its whole name is not known where no check was possible
        if len(found) != 1:
            raise InputError(f"validation gave no {self.trial.metric}; it gave {', '.join(scalars) or 'nothing'}")
        score = scalars.setdefault(self.trial.metric, scalars[found[0]])
        at = runner.epoch if self.trial.counter == "epoch" else runner.iter
        self._check_finite(runner, score, at)
        choose = max if self.trial.mode == "max" else min
        self._best = score if self._best is None else choose(self._best, score)
        report: TrialReport = {
            "at": at,
            "score": score,
            "epoch": runner.epoch,
            "iter": runner.iter,
            "seconds": round(time.monotonic() - self._since, 3),
            "time": time.time(),
            "generation": self.trial.generation,
            "metrics": scalars,
        }
        if runner.rank == 0:
            append_json_line(self.trial.folder / REPORTS, report)
        runner.progress.validated = runner.iter
        saved = self._save(runner, at, scalars)
        goes_on = True
        if runner.rank == 0:
            pointer = {"trial": self.trial.id, "path": str(saved), "at": at}
            goes_on = self.send({"trial": self.trial.id, "at": at, "score": score, "pointer": pointer})
        if not dist.broadcast_object(goes_on):
            runner.train_loop.stop_training = True

    @override
    def after_train(self, runner: RunContext) -> None:
        """Hand the setting with the best score to the back ends."""
        record = read_json(self.trial.folder / "trial.json") if runner.rank == 0 else None
        setting = record.get("setting") if isinstance(record, dict) else None
        if setting and isinstance(setting, dict) and self._best is not None:
            runner.visualizer.add_hparams(setting, {self.trial.metric: self._best})

    def _check_finite(self, runner: RunContext, score: float, at: float) -> None:
        """End a trial whose metric is not finite, or that has made no finite step since the last report.

        Raises:
            NonFiniteError: It is.
        """
        name = self.trial.metric.rsplit("/", 1)[-1]
        if not math.isfinite(score):
            raise NonFiniteError(f"{name} is {score} at {self.trial.counter} {at:g}")
        if self._steps and runner.rank == 0:
            series = runner.message_hub.log_scalars.get("train/loss")
            losses = series.data[-self._steps :] if series is not None else []
            if losses and not any(map(math.isfinite, losses)):
                raise NonFiniteError(f"the loss of every step up to {self.trial.counter} {at:g} is not finite")
        self._steps = 0

    def _save(self, runner: RunContext, at: float, scores: Mapping[str, float]) -> Path:
        name = f"{self.trial.counter}_{at:g}.pth"
        with self.retention.writing(self.trial.id) if runner.rank == 0 else nullcontext():
            path = runner.save_checkpoint(
                runner.work_dir, name, by_epoch=self.trial.counter == "epoch", group="sweep", scores=scores, point=True
            )
            runner.store.drain()
        if runner.rank == 0 and runner.store.failure:
            raise RuntimeError(runner.store.failure)
        return Path(path)
