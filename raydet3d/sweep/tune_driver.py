"""Drive a sweep: Ray Tune schedules the trials, the trial store records their states."""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import raydet3d.launch.retry_loop  # noqa: F401 - first: it sets what Ray reads when it is imported
from raydet3d.launch.cluster import join_or_start
from raydet3d.launch.executors import release
from raydet3d.launch.failures import describe_failure
from raydet3d.launch.ray_console import divert_ray_lines
from raydet3d.launch.retry_loop import StopSource
from raydet3d.launch.signal_channel import STOP, purge
from raydet3d.launch.signals import StopRequest
from raydet3d.sweep.sweep_console import SweepConsole
from raydet3d.sweep.trial_queue import TrialQueue, trial_options
from raydet3d.sweep.trial_retention import needs_ranking
from raydet3d.sweep.trial_spec import TrialSpec, read_end
from raydet3d.sweep.trial_store import DONE, FAILED, OPEN, RUNNING, STOPPED, WAITING, Trial

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials write their own files
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the store is what a sweep resumes from
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
from ray.tune.experiment import Trial as RayTrial  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402
from typing_extensions import override  # noqa: E402

from raydet3d.sweep.run_trial import INTERRUPTED, TuneReport, run_trial, sweep_channel  # noqa: E402
from raydet3d.sweep.trial_schedulers import make_scheduler, trial_id  # noqa: E402

SLOT = "sweep_trial"  # a resource of clusters that are started here, one for each trial at a time
REPORT_BYTES = 1_000_000  # reserved for the page
RELEASE_AFTER_S = 15.0  # after a trial's end; Ray usually frees its reservation earlier
STOP_TIMEOUT_S = 24.0  # time for trials to save once they are asked to stop
POLL_S = 0.2


@contextmanager
def sweep_cluster(cpus: float, *, concurrency: int) -> Iterator[Callable[[], Mapping[str, float]]]:
    """Connect to a cluster for the `with` block: the connected one, one to join, or one that is started here.

    Args:
        cpus: CPUs of one that is started.
        concurrency: Trials that one that is started runs at a time.

    Yields:
        What returns its resources.
    """
    was_connected = ray.is_initialized()
    join_or_start(
        dashboard=False,
        workers_print=False,
        num_cpus=max(math.ceil(cpus), 1),
        resources={SLOT: float(concurrency)},
    )
    try:
        yield ray.cluster_resources
    finally:
        if not was_connected:
            ray.shutdown()


class SweepDriver(tune.Callback):
    """Run one start of a sweep; Ray Tune calls it on every event of a trial.

    Args:
        queue: Its trials.
        console: Where it is shown.
        concurrency: Trials at a time.
        request: Whether this process is asked to stop.

    Attributes:
        over: Why the sweep has ended before its last trial, where its budget is used up.
        stopped: Why the sweep was asked to stop.
    """

    def __init__(
        self, queue: TrialQueue, console: SweepConsole, *, concurrency: int, request: StopSource | None = None
    ) -> None:
        self.queue = queue
        self.sweep = queue.sweep
        self.store = queue.store
        self.console = console
        self.concurrency = concurrency
        self.over: str | None = None
        self.stopped: str | None = None
        self._reasons: dict[str, str] = {}  # of trials that a stop rule has ended
        self._request = request or StopRequest()
        self._options = trial_options(self.sweep, queue.base)
        self._time_limit_s = float((queue.base.get("ray") or {}).get("time_limit_s") or 0)
        self._began = time.monotonic()
        self._spent_s = self.store.time_spent()
        self._counted: dict[str, float] = {}  # up to when a trial's seconds are counted
        self._running: set[str] = set()
        self._next_ranking = 0.0
        self._left_s: float | None = None
        self._to_release: dict[str, tuple[str, float]] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Ray's Tuner pickles itself and all that it holds into a file that nothing reads: the trial store is read.
        return object, ()

    @property
    def elapsed_s(self) -> float:
        """Time of all starts."""
        return self._spent_s + time.monotonic() - self._began

    def run(self) -> None:
        """Run until nothing is left, the budget is used up, or this process is asked to stop."""
        scratch = self.store.path / ".ray"
        shutil.rmtree(scratch, ignore_errors=True)
        purge(f"{sweep_channel().name}/")  # of an earlier sweep of this process that was stopped
        self._note(at_once=True)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        error: list[BaseException] = []
        fit = self._make_tuner(scratch).fit

        def target() -> None:
            try:
                fit()
            except BaseException as raised:  # noqa: BLE001 - raised below, in the caller's thread
                error.append(raised)

        # In a thread: this one takes signals, which Ray Tune would take for itself in the main one.
        thread = threading.Thread(target=target, name="ray-tune", daemon=True)
        thread.start()
        try:
            with divert_ray_lines(self.store.path / "ray.log"):
                self._supervise(thread)
        finally:
            self.console.close()
            self._finish()
            shutil.rmtree(scratch, ignore_errors=True)
        if self.stopped is None:
            if error:
                raise error[0]
            if self.over is None and not self.queue.is_over():
                self.stopped = "SIGINT"

    def _make_tuner(self, scratch: Path) -> tune.Tuner:
        return tune.Tuner(
            tune.with_resources(run_trial, self._resources()),
            tune_config=tune.TuneConfig(
                search_alg=TrialSearcher(self),
                scheduler=make_scheduler(self.queue, scratch),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=trial_id,
                trial_dirname_creator=trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch.absolute()),
                stop=SweepStopper(self),
                callbacks=[self],
                # Of a trial's actor. Its own errors a trial does not raise, and its workers' deaths it counts itself.
                failure_config=tune.FailureConfig(max_failures=self._options.max_failures),
                checkpoint_config=tune.CheckpointConfig(),
                verbose=0,
            ),
        )

    def _resources(self) -> tune.PlacementGroupFactory | dict[str, float]:
        """Return what Ray Tune reserves for a trial: its process for one worker, only a slot for several.

        The workers of a trial of several reserve their own share through Ray Train.
        """
        have = ray.cluster_resources()
        slot = {SLOT: 1.0} if SLOT in have else {}
        if self._options.max_workers > 1:
            return {"cpu": 0.01, **slot}
        bundle = dict(self._options.bundle)
        if not slot and self.sweep.scheduler.pauses_trials:
            bundle["CPU"] = max(bundle.get("CPU", 0.0), have.get("CPU", 0.0) / self.concurrency)  # trials take turns
        return tune.PlacementGroupFactory([{}, {**bundle, **slot}])

    def _supervise(self, thread: threading.Thread) -> None:
        """Wait for the end of the sweep; if it is asked to stop, let its trials save first."""
        deadline = math.inf
        while thread.is_alive() and time.monotonic() < deadline:
            try:
                thread.join(POLL_S)
            except KeyboardInterrupt:
                if self.stopped is not None:  # pressed again: the trials are not waited for
                    break
                self.stopped = "SIGINT"
            self.stopped = self.stopped or self._request.reason
            if self._time_limit_s and time.monotonic() - self._began > self._time_limit_s:
                self.stopped = self.stopped or "time limit"
            if self.stopped is not None and deadline == math.inf:
                deadline = time.monotonic() + STOP_TIMEOUT_S
                self.console.print(
                    f"asked to stop ({self.stopped}): the running trials save, and resume with the next start"
                )
                with suppress(ray.exceptions.RayError):
                    sweep_channel().put(STOP, self.stopped)

    def _finish(self) -> None:
        """Write the records that the next start reads."""
        for trial in self.queue.trials.values():
            if trial.state in OPEN:
                trial.state = WAITING
                self._count_seconds(trial)
                self.store.save(trial)
        with suppress(ray.exceptions.RayError):
            for run, _ in self._to_release.values():
                release(run)
        self._note(at_once=True)
        limit = self.sweep.keep.num_bytes
        self.queue.retention.prune(room=min(REPORT_BYTES, limit // 3) if limit is not None else 0)

    # -- what happens to trials -------------------------------------------------------------------------------------

    def next_trial(self) -> Trial | None:
        """Return the next trial to start; None if there is none now."""
        # Where trials take turns, more of them are started than run at a time.
        full = not self.sweep.scheduler.pauses_trials and len(self._running) >= self.concurrency
        if self.stopped is not None or self.over is not None or full or self.is_out_of_budget():
            return None
        trial = self.queue.next()
        if trial is not None:
            self._running.add(trial.id)
        return trial

    def is_done(self) -> bool:
        """Whether no trial will be added and none is running; until then, actors are kept for the next one."""
        ends = self.queue.is_exhausted or self.over is not None or self.stopped is not None
        return ends and not self._running

    def is_to_end(self) -> bool:
        """Whether Ray Tune has to end the sweep now: its budget is used up, or its trials have saved and stopped."""
        saved = self.stopped is not None and all(trial.state != RUNNING for trial in self.queue.trials.values())
        return saved or self.is_out_of_budget()

    def is_out_of_budget(self) -> bool:
        """Whether the whole sweep has to end now."""
        budget = self.sweep.budget
        if self.over is None:
            if budget.seconds is not None and self.elapsed_s >= budget.seconds:
                self.over = f"its {budget.seconds / 60:g} minutes are over"
            elif budget.epochs is not None and self.queue.epochs() >= budget.epochs:
                self.over = f"its {budget.epochs:g} epochs are trained"
        return self.over is not None

    @override
    def on_trial_start(self, iteration: int, trials: Sequence[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Note that a trial's process begins."""
        mine = self._mine(trial)
        self._counted.setdefault(mine.id, time.monotonic())
        if mine.state != RUNNING:
            mine.state = RUNNING
            self.store.save(mine)
            self._note(None if mine.reports else mine)

    def reported(self, result: TuneReport) -> bool:
        """Note that a trial has validated; return whether a stop rule ends it."""
        trial = self.queue.trials[result["trial"]]
        self._restarted(trial, result["why"], result["restarts"])
        trial.reports = [other for other in trial.reports if other["at"] < result["at"]]
        trial.reports.append(
            {"at": result["at"], "score": result["score"], "time": time.time(), "generation": trial.generation}
        )
        self.queue.ranking.update(trial)
        self._count_seconds(trial)
        if self.sweep.stop:
            reports = [
                {**entry.get("metrics", {}), "at": entry["at"], "score": entry["score"]}
                for entry in self.store.reports(trial.id)
            ]
            for rule in self.sweep.stop:
                if (reason := rule.reason(reports, metric=self.queue.metric, mode=self.sweep.mode)) is not None:
                    self._reasons[trial.id] = reason
                    return True
        return False

    @override
    def on_trial_result(
        self, iteration: int, trials: Sequence[RayTrial], trial: RayTrial, result: TuneReport, **info: Any
    ) -> None:
        """Show a report that the scheduler and the stop rules have processed."""
        self._note(self._mine(trial))

    @override
    def on_trial_recover(self, iteration: int, trials: Sequence[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Note that a trial's actor has died and starts again."""
        mine = self._mine(trial)
        self._restarted(mine, "its process or node died", mine.restarts + 1)

    @override
    def on_trial_complete(self, iteration: int, trials: Sequence[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Note that a trial has ended, was stopped, or was interrupted with the whole sweep."""
        self._ended(self._mine(trial))

    @override
    def on_trial_error(self, iteration: int, trials: Sequence[RayTrial], trial: RayTrial, **info: Any) -> None:
        """Note that a trial has failed."""
        error = trial.get_pickled_error() or trial.get_error()
        self._ended(self._mine(trial), error or RuntimeError("its process could not be used again after another trial"))

    @override
    def on_step_end(self, iteration: int, trials: Sequence[RayTrial], **info: Any) -> None:
        """Handle trials that no other callback reports, release what ended ones still hold, and show the state."""
        for trial in trials:
            if trial.status == trial.PAUSED and self._mine(trial).state == RUNNING:
                self._mine(trial).state = WAITING
            elif trial.status == trial.ERROR and self._mine(trial).state in OPEN:
                # Where an actor could not be used again, no other callback says so.
                self.on_trial_error(iteration, trials, trial)
        for name in [name for name, (_, deadline) in self._to_release.items() if time.monotonic() > deadline]:
            release(self._to_release.pop(name)[0])
        if self.console.is_due():
            self.console.show(self.queue.ranking.trials(), total=self.queue.total, left_s=self.left_s())

    def _mine(self, trial: RayTrial) -> Trial:
        return self.queue.trials[trial_id(trial)]

    def _restarted(self, trial: Trial, why: str, restarts: int) -> None:
        """Note that a trial was started again after a process of its has died."""
        if restarts > trial.restarts:
            trial.restarts = restarts
            self.store.save(trial)
            self.console.print(
                f"trial {trial.id}  {why}: it resumes from its newest checkpoint, restart {restarts} of "
                f"{self._options.max_failures}"
            )

    def _ended(self, trial: Trial, error: BaseException | None = None) -> None:
        if trial.state not in OPEN:
            return
        self._running.discard(trial.id)
        self._count_seconds(trial)
        self._counted.pop(trial.id, None)
        self._to_release[trial.id] = (f"{trial.id}-gen{trial.generation}", time.monotonic() + RELEASE_AFTER_S)
        if trial.restarts:  # a report may have been on its way when a process died
            trial.reports = self.store.reports(trial.id)
        state, reason = read_end(self.store.folder(trial.id), trial.generation) or ("", "")
        if state == INTERRUPTED and self.stopped is not None:
            trial.state = WAITING
            self.queue.ranking.update(trial)
            self.store.save(trial)
            self._note()
            return
        if state == FAILED or error is not None:
            trial.state = FAILED
            trial.reason = reason if state == FAILED or error is None else describe_failure(error)
        elif state == DONE or trial.at >= trial.length:
            trial.state = DONE
        else:
            trial.state = STOPPED
            kind = self.sweep.scheduler.type
            trial.reason = self._reasons.get(trial.id) or (kind if kind != "fifo" else "")
        self.queue.ranking.update(trial)
        self.store.save(trial)
        self.queue.conclude(trial.number)
        self.queue.retention.prune(trial.id)
        self._note(trial)

    # -- what is shown and written ----------------------------------------------------------------------------------

    def left_s(self) -> float | None:
        """Estimate the remaining time from the cost of an epoch so far, in seconds; None if that is not known yet."""
        trials, total = list(self.queue.trials.values()), self.queue.total
        trained = self.queue.epochs()
        seconds = sum(trial.seconds for trial in trials)
        if not trained or total is None or not seconds:
            return None
        ended = [trial for trial in trials if trial.state not in OPEN]
        usual = sum(trial.at for trial in ended) / len(ended) if ended else self.queue.longest
        open_left = sum(max(usual - trial.at, 0) for trial in trials if trial.state in OPEN)
        left = (open_left + usual * max(total - len(trials), 0)) * seconds / trained / self.concurrency
        limit = self.sweep.budget.seconds
        return left if limit is None else min(left, limit - self.elapsed_s)

    def _count_seconds(self, trial: Trial) -> None:
        if trial.id in self._counted:
            now = time.monotonic()
            trial.seconds += now - self._counted[trial.id]
            self._counted[trial.id] = now

    def _note(self, trial: Trial | None = None, *, at_once: bool = False) -> None:
        """Show the new state of a trial; write the sweep's state and estimate its end.

        The latter two take all trials, so they are done once a second, unless trials need the ranking to make room for
        their checkpoints.
        """
        if at_once or needs_ranking(self.sweep.keep) or time.monotonic() >= self._next_ranking:
            self.store.write_ranking(self.queue.ranking.ranks())
            self.store.note_time(self.elapsed_s)
            self._left_s = self.left_s()
            self._next_ranking = time.monotonic() + 1.0
        if trial is not None:
            self.console.event(trial, self.queue.ranking.trials(), total=self.queue.total, left_s=self._left_s)


class TrialSearcher(Searcher):
    """Hands the trials of the queue to Ray Tune.

    Args:
        driver: The sweep.
    """

    def __init__(self, driver: SweepDriver) -> None:
        super().__init__()
        self._driver = driver

    @override
    def suggest(self, trial_id: str) -> dict[str, TrialSpec] | str | None:
        """Return the next trial's config; None where there is none for now."""
        if self._driver.is_done():
            return str(Searcher.FINISHED)
        trial = self._driver.next_trial()
        return None if trial is None else {"trial": self._driver.queue.spec_of(trial)}

    @override
    def on_trial_complete(self, trial_id: str, result: TuneReport | None = None, error: bool = False) -> None:
        """Do nothing: the driver receives the same event."""

    @override
    def save(self, checkpoint_path: str) -> None:
        """Write nothing: a sweep resumes from its trial store."""
        Path(checkpoint_path).touch()

    @override
    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


class SweepStopper(tune.Stopper):
    """Stops trials by the sweep's rules, and the sweep by its budget.

    Args:
        driver: The sweep.
    """

    def __init__(self, driver: SweepDriver) -> None:
        self._driver = driver

    @override
    def __call__(self, trial_id: str, result: TuneReport) -> bool:
        """Return whether a trial stops with this report."""
        return "at" in result and not result.get("done") and self._driver.reported(result)

    @override
    def stop_all(self) -> bool:
        return self._driver.is_to_end()
