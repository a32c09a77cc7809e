"""The driver of a sweep: Ray Tune runs the trials, and every word of it goes through the ledger."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import raydet3d.launch.driver  # noqa: F401 - first: it settles what Ray reads when it is imported
from raydet3d.launch.cluster import known_address
from raydet3d.launch.signals import detached_children
from raydet3d.sweep.pbt import exploit
from raydet3d.sweep.sweep_console import SweepConsole
from raydet3d.sweep.trial_failures import reason_of
from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_spec import read_end
from raydet3d.sweep.trial_store import DONE, FAILED, OPEN, RUNNING, STOPPED, WAITING, Trial, TrialStore

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials write their own files
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the ledger is what a sweep goes on from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "RAY_AIR_NEW_OUTPUT": "0",
}
for _setting, _value in SETTINGS.items():
    os.environ.setdefault(_setting, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser  # noqa: E402
from ray.tune.search.search_algorithm import SearchAlgorithm  # noqa: E402

from raydet3d.sweep.trial_distributed import release_group, run_nested  # noqa: E402
from raydet3d.sweep.trial_local import run_inline  # noqa: E402
from raydet3d.sweep.trial_schedulers import NEEDS_POINTERS, make_scheduler  # noqa: E402

SLOT = "sweep_trial"  # a resource of clusters that are started here, one for each trial at a time
REPORT = 1_000_000  # bytes that the pictures and the page may come to
GRACE_S = 15.0  # for a nested trial to end by itself

__all__ = ["NEEDS_POINTERS", "SweepDriver", "cluster"]


@contextmanager
def cluster(cpus: float, *, concurrency: int) -> Iterator[Callable[[], Mapping[str, float]]]:
    """A Ray to sweep on, for as long as the ``with`` block: the one there is, one that is joined, or one started here.

    Args:
        cpus: CPUs that one started here has to give.
        concurrency: Trials that one started here runs at a time.

    Yields:
        What asks for its resources.
    """
    if ray.is_initialized():
        yield ray.cluster_resources
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        slots = {SLOT: float(concurrency)}
        with known_address(), detached_children():
            ray.init(
                address="local", include_dashboard=False, num_cpus=max(math.ceil(cpus), 1), resources=slots, **quiet
            )
    try:
        yield ray.cluster_resources
    finally:
        ray.shutdown()


class SweepDriver:
    """One start of a sweep.

    Args:
        program: Its trials.
        ledger: Its folder.
        console: Where it is shown.
        concurrency: Trials at a time.
        spent_s: Time that earlier starts have taken.
    """

    def __init__(
        self, program: TrialQueue, ledger: TrialStore, console: SweepConsole, *, concurrency: int, spent_s: float
    ) -> None:
        self.program = program
        self.sweep = program.sweep
        self.ledger = ledger
        self.console = console
        self.concurrency = concurrency
        self.spent_s = spent_s
        self.reasons: dict[str, str] = {}
        self.over: str | None = None
        self.interrupted = False
        self._began = time.monotonic()
        self._started: dict[str, float] = {}
        self._before_s = {trial.id: trial.seconds for trial in program.trials.values()}
        self._running: set[str] = set()
        self._leaving: dict[str, float] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray's Tuner pickles itself and all that it holds into a file that is never read: the ledger is.
        return object, ()

    @property
    def elapsed_s(self) -> float:
        """Time of all starts."""
        return self.spent_s + time.monotonic() - self._began

    def run(self) -> None:
        """Run until nothing is left, the budget is used up, or somebody interrupts."""
        scratch = self.ledger.path / ".ray"
        shutil.rmtree(scratch, ignore_errors=True)
        self._note_standing()
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        function = tune.with_resources(self._function(), self._resources())
        scheduler = make_scheduler(
            self.sweep,
            length=self.program.longest,
            past=[trial for trial in self.program.trials.values() if trial.reports],
            explore=partial(exploit, self.program),
            pointers=scratch / "pointers",
        )
        seeker = TrialSearcher(self)
        tuner = tune.Tuner(
            function,
            tune_config=tune.TuneConfig(
                search_alg=seeker,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch.absolute()),
                stop=SweepStopper(self),
                callbacks=[SweepCallback(self)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            self.console.close()
            self._finish()
            shutil.rmtree(scratch, ignore_errors=True)

    def _function(self) -> Callable[[dict[str, Any]], None]:
        return run_nested if self.sweep.resources.workers > 1 else run_inline

    def _resources(self) -> dict[str, float]:
        """What Ray Tune reserves for a trial; of a nested one its workers' share is Ray Train's to reserve."""
        resources, have = self.sweep.resources, ray.cluster_resources()
        nested = resources.workers > 1
        out = {"cpu": 0.01 if nested else resources.cpus, "gpu": 0.0 if nested else resources.gpus}
        if SLOT in have:
            out[SLOT] = 1.0
        elif self.sweep.scheduler.type in NEEDS_POINTERS and not nested:
            out["cpu"] = max(out["cpu"], have.get("CPU", 0.0) / self.concurrency)  # its trials take turns
        return out

    def _finish(self) -> None:
        """Leave the records as the next start is to find them."""
        for trial in self.program.trials.values():
            if trial.state in OPEN:
                trial.state = WAITING
                self._count_seconds(trial)
                self.ledger.save(trial)
            release_group(self.ledger.folder(trial.id))
        self.interrupted = self.over is None and not self.program.is_over()
        self._note_standing()
        limit = self.sweep.keep.bytes
        self.program.keeper().prune(room=min(REPORT, limit // 3) if limit is not None else 0)

    # -- what happens to trials -------------------------------------------------------------------------------------

    def next_trial(self) -> Trial | None:
        """The next trial to start; None for now, or for ever."""
        takes_turns = self.sweep.scheduler.type in NEEDS_POINTERS  # more trials than run at a time
        full = not takes_turns and len(self._running) >= self.concurrency
        if self.over is not None or full or self.is_out_of_budget():
            return None
        trial = self.program.next()
        if trial is not None:
            self._running.add(trial.id)
        return trial

    def is_done(self) -> bool:
        """Whether no trial will be added and none is under way: until then, actors are kept for the next one."""
        return not self._running and (self.program.is_exhausted or self.over is not None)

    def is_out_of_budget(self) -> bool:
        """Whether the whole sweep has to end now."""
        budget = self.sweep.budget
        if self.over is None:
            if budget.seconds is not None and self.elapsed_s >= budget.seconds:
                self.over = f"its {budget.seconds / 60:g} minutes are over"
            elif budget.epochs is not None and self.program.epochs() >= budget.epochs:
                self.over = f"its {budget.epochs:g} epochs are trained"
        return self.over is not None

    def started(self, name: str) -> None:
        """A trial's process begins."""
        trial = self.program.trials[name]
        self._started.setdefault(name, time.monotonic())
        if trial.state != RUNNING:
            trial.state = RUNNING
            self.ledger.save(trial)
            self._note_standing()
            if not trial.reports:
                self._event(trial)

    def paused(self, name: str) -> None:
        """A trial waits for its turn."""
        if self.program.trials[name].state == RUNNING:
            self.program.trials[name].state = WAITING

    def reported(self, name: str, result: Mapping[str, Any]) -> str | None:
        """A trial has validated.

        Returns:
            Why it is to stop; None where it goes on.
        """
        trial = self.program.trials[name]
        report = {"at": result["at"], "score": result["score"], "time": time.time(), "generation": trial.generation}
        trial.reports = [other for other in trial.reports if other["at"] < report["at"]] + [report]
        self._count_seconds(trial)
        if self.sweep.stop:
            full = self.ledger.reports(name)
            flat = [{**entry.get("metrics", {}), "at": entry["at"], "score": entry["score"]} for entry in full]
            for rule in self.sweep.stop:
                if (reason := rule.reason(flat, metric=self.program.metric, mode=self.sweep.mode)) is not None:
                    self.reasons[name] = reason
                    return reason
        return None

    def noted(self, name: str) -> None:
        """A report has been dealt with: show it."""
        self._note_standing()
        self._event(self.program.trials[name])

    def ended(self, name: str, error: BaseException | None = None) -> None:
        """A trial is over."""
        trial = self.program.trials[name]
        if trial.state not in OPEN:
            return
        self._running.discard(name)
        self._count_seconds(trial)
        self._started.pop(name, None)
        said = read_end(self.ledger.folder(name), trial.generation)
        if error is not None:
            trial.state = FAILED
            trial.reason = said[1] if said and said[0] == "failed" else reason_of(error)
        elif (said and said[0] == "done") or trial.at >= trial.length:
            trial.state = DONE
        else:
            trial.state = STOPPED
            kind = self.sweep.scheduler.type
            trial.reason = self.reasons.get(name) or (kind if kind != "fifo" else "")
        self.program.keeper().unpin(trial.starts_from)
        self.ledger.save(trial)
        self.program.conclude(trial.number)
        self._note_standing()
        self.program.keeper().prune()
        self._leaving[name] = time.monotonic() + (GRACE_S if error is None else 0.0)
        self._event(trial)

    def tick(self) -> None:
        """Now and then: show how it stands, and see that what stopped trials had reserved is free."""
        for name in [name for name, deadline in self._leaving.items() if time.monotonic() > deadline]:
            del self._leaving[name]
            release_group(self.ledger.folder(name))
        self.console.tick(list(self.program.trials.values()), total=self.program.total, left_s=self.left_s())

    def left_s(self) -> float | None:
        """A guess at the time that is left, from what an epoch has cost so far; None where there is no telling."""
        trials, total = list(self.program.trials.values()), self.program.total
        trained = self.program.epochs()
        seconds = sum(trial.seconds for trial in trials)
        if not trained or total is None or not seconds:
            return None
        ended = [trial for trial in trials if trial.state not in OPEN]
        usual = sum(trial.at for trial in ended) / len(ended) if ended else self.program.longest
        open_left = sum(max(usual - trial.at, 0) for trial in trials if trial.state in OPEN)
        left = (open_left + usual * max(total - len(trials), 0)) * seconds / trained / self.concurrency
        limit = self.sweep.budget.seconds
        return left if limit is None else min(left, limit - self.elapsed_s)

    def _count_seconds(self, trial: Trial) -> None:
        if trial.id in self._started:
            trial.seconds = self._before_s.get(trial.id, 0.0) + time.monotonic() - self._started[trial.id]

    def _note_standing(self) -> None:
        self.ledger.write_standing(self.program.trials.values(), self.sweep.mode)
        self.ledger.note_time(self.elapsed_s)

    def _event(self, trial: Trial) -> None:
        self.console.event(trial, list(self.program.trials.values()), total=self.program.total, left_s=self.left_s())


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _error_of(trial: Any) -> BaseException:
    """What a trial of Ray's failed with."""
    path = Path(trial.local_path or ".")
    meta = trial.run_metadata
    if meta.pickled_error_filename and (path / meta.pickled_error_filename).is_file():
        error = ray.cloudpickle.loads((path / meta.pickled_error_filename).read_bytes())
        if isinstance(error, BaseException):
            return error
    if meta.error_filename and (path / meta.error_filename).is_file():
        return RuntimeError((path / meta.error_filename).read_text(encoding="utf-8")[-2000:])
    return RuntimeError("its process could not be used again after the trial before")


class TrialSearcher(SearchAlgorithm):
    """Hands our trials, under our names, to Ray Tune.

    Args:
        driver: The sweep.
    """

    def __init__(self, driver: SweepDriver) -> None:
        self._driver = driver
        self._parser = _make_parser()
        self._spec: dict[str, Any] = {}

    def add_configurations(self, experiments: Any) -> None:
        """Take what all trials have in common."""
        self._spec = experiments[0].spec

    def next_trial(self) -> Any:
        """The next trial, for Ray."""
        trial = self._driver.next_trial()
        if trial is None:
            return None
        config = {"task": self._driver.program.task_of(trial).to_dict()}
        return _create_trial_from_spec({**self._spec, "config": config}, self._parser, trial_id=trial.id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the watcher sees it, too."""

    def is_finished(self) -> bool:
        """Whether no trial will be added, and none is under way."""
        return self._finished or self._driver.is_done()


class SweepStopper(tune.Stopper):
    """Stops trials by the sweep's rules, and the sweep by its budget.

    Args:
        driver: The sweep.
    """

    def __init__(self, driver: SweepDriver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial stops with this report."""
        return "at" in result and not result.get("done") and self._driver.reported(trial_id, result) is not None

    def stop_all(self) -> bool:
        """Whether the sweep stops."""
        return self._driver.is_out_of_budget()


class SweepCallback(tune.Callback):
    """Tells the driver what Ray Tune does.

    Args:
        driver: The sweep.
    """

    def __init__(self, driver: SweepDriver) -> None:
        self._driver = driver

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process begins."""
        self._driver.started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A report has been dealt with."""
        self._driver.noted(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended or was stopped."""
        self._driver.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed."""
        self._driver.ended(trial.trial_id, _error_of(trial))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Now and then."""
        for trial in trials:
            if trial.status == trial.PAUSED:
                self._driver.paused(trial.trial_id)
            elif trial.status == trial.ERROR:  # where an actor could not be used again, nobody else says so
                self._driver.ended(trial.trial_id, _error_of(trial))
        self._driver.tick()
