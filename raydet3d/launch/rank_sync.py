"""Periodic rank sync: agree on a stop, detect stragglers, report throughput.

All ranks sync at the same iterations and exchange a row of five numbers each, in one all-reduce on the host (0.1 to
0.3 ms). How many iterations it is to the next sync follows from the rows, which every rank has, so the ranks need not
agree on anything else; it comes to about half a second. The device is not waited for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from raydet3d import dist
from raydet3d.hooks.base import Hook
from raydet3d.launch.signals import REASONS, Stopped

if TYPE_CHECKING:
    from raydet3d.hooks.context import DataBatch, DataLoader, Losses, Predictions, RunContext

GROUP = "stop"
ASKED, BUSY, ITERATIONS, SAMPLES, SECONDS = range(5)


class StepTimer(Hook):
    """Measures how long this rank works in each iteration before it waits for the others.

    That is from the end of an iteration to the end of the next forward pass: waiting for data, computing, hooks. (The
    backward pass ends when the slowest rank arrives, so its length says nothing about this one.)
    """

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.busy = 0.0
        self._began = self._computed = 0.0

    @override
    def before_train(self, runner: RunContext) -> None:
        module = getattr(runner.model, "module", runner.model)
        module.register_forward_hook(self._note_forward)
        self._began = time.perf_counter()

    @override
    def after_val(self, runner: RunContext) -> None:
        self._began = time.perf_counter()  # the validation is no part of an iteration

    @override
    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        self.busy += max(self._computed - self._began, 0.0)
        self._began = time.perf_counter()

    def _note_forward(self, *_: object) -> None:
        self._computed = time.perf_counter()


class RankSyncHook(Hook):
    """Stops the run when it is asked to, names slow ranks, and reports each rank's throughput.

    Args:
        asked: Returns the reason to stop the run (one of `REASONS`), or None. Any rank's answer counts.
        timer: This rank's, registered as a hook too.
        interval_s: Seconds between two syncs, about.
        window_s: Seconds over which ranks are compared.
        report_s: Seconds from one line about throughput to the next.
        ratio: A rank that takes so many times as long as the median of the others is named a straggler.
    """

    priority = "LOWEST"

    def __init__(
        self,
        asked: Callable[[], str | None],
        timer: StepTimer,
        *,
        interval_s: float = 0.5,
        window_s: float = 10.0,
        report_s: float = 60.0,
        ratio: float = 1.5,
    ) -> None:
        self._asked = asked
        self._timer = timer
        self.interval_s, self.window_s, self.report_s, self.ratio = interval_s, window_s, report_s, ratio
        self._left = 1
        self._iterations = self._samples = 0
        self._since = 0.0
        self._window: torch.Tensor | None = None
        self._total: torch.Tensor | None = None
        self._named: set[int] = set()
        self._val_syncs = 0

    # -- training -----------------------------------------------------------------------------------------------

    @override
    def before_train(self, runner: RunContext) -> None:
        self._reset()

    @override
    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        self._samples += _num_samples(data_batch)
        rows = self._sync_if_due(runner)
        if rows is None:
            return
        self._add(runner, rows, runner.iter + 1)
        if reason := _reason_in(rows):
            self._save(runner, reason, runner.iter + 1)

    @override
    def after_train(self, runner: RunContext) -> None:
        if runner.rank == 0:
            parts = [part for part in (self._total, self._window) if part is not None]
            if parts:
                self._total = torch.stack(parts).sum(0)
                self._report(runner, runner.iter)
            store = runner.store  # what was saved for a stop goes: the run's own checkpoints are newer
            store.drain()
            newest = store.newest_own()
            for entry in store.manifests():
                if entry.group == GROUP and entry.run == runner.run_name and newest != store.location(entry):
                    store.delete(entry)

    # -- validation ---------------------------------------------------------------------------------------------

    @override
    def before_val(self, runner: RunContext) -> None:
        if not runner.is_training:
            return  # a validation may be long: where a stop is asked for, save before it
        if reason := _reason_in(self._sync(runner)):
            self._save(runner, reason, runner.iter)
        self._val_syncs = _num_shared_batches(runner.val_dataloader)
        self._left = 1
        self._reset()

    @override
    def after_val_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        if not runner.is_training or batch_idx >= self._val_syncs:
            return
        rows = self._sync_if_due(runner)
        if rows is not None and (reason := _reason_in(rows)):
            saved = dist.on_rank0(lambda: _saved_at(runner))
            if saved is not None:  # else the next iteration saves and stops
                raise Stopped(reason, runner.iter, saved)

    @override
    def after_val(self, runner: RunContext) -> None:
        self._left = 1  # sync again after the next iteration
        self._reset()

    # -- syncing --------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._iterations = self._samples = 0
        self._timer.busy = 0.0
        self._since = time.perf_counter()

    def _sync_if_due(self, runner: RunContext) -> torch.Tensor | None:
        """Count an iteration; when it is time, exchange rows and set when to do it next."""
        self._iterations += 1
        self._left -= 1
        if self._left > 0:
            return None
        rows = self._sync(runner)
        mean = float(rows[:, SECONDS].mean()) / self._iterations
        self._left = max(1, min(10_000, round(self.interval_s / max(mean, 1e-6))))
        self._reset()
        return rows

    def _sync(self, runner: RunContext) -> torch.Tensor:
        """Exchange the rows of all ranks: (world, 5), the same on all."""
        reason = self._asked()
        rows = torch.zeros(runner.world_size, 5, dtype=torch.float64)
        asked = 0 if reason is None else 1 + REASONS.index(reason)
        seconds = time.perf_counter() - self._since
        rows[runner.rank] = torch.tensor(
            [asked, self._timer.busy, self._iterations, self._samples, seconds], dtype=torch.float64
        )
        dist.all_reduce(rows)
        return rows

    def _save(self, runner: RunContext, reason: str, iteration: int) -> None:
        """Save a checkpoint of this iteration and raise `Stopped`."""
        runner.logger.info("asked to stop (%s): saving iteration %d", reason, iteration)
        name = f"stop_iter_{iteration}.pth"
        path = runner.save_checkpoint(runner.work_dir, name, group=GROUP, limit=1, point=True)

        def finish() -> str | None:
            runner.store.drain()
            return None if runner.store.failure else str(path)

        saved = dist.on_rank0(finish)
        if saved is None:
            runner.logger.error(
                "nothing was saved: the run resumes from its last good checkpoint when it is started again"
            )
        raise Stopped(reason, iteration, saved)

    # -- comparing ----------------------------------------------------------------------------------------------

    def _add(self, runner: RunContext, rows: torch.Tensor, iteration: int) -> None:
        if runner.rank != 0:
            return
        self._window = rows if self._window is None else self._window + rows
        if float(self._window[0, SECONDS]) < self.window_s:
            return
        self._compare(runner, self._window)
        self._total = self._window if self._total is None else self._total + self._window
        self._window = None
        if float(self._total[0, SECONDS]) >= self.report_s:
            self._report(runner, iteration)
            self._total = None

    def _compare(self, runner: RunContext, rows: torch.Tensor) -> None:
        """Log the ranks that the others wait for, once until they have caught up."""
        if runner.world_size == 1:
            return
        own = (rows[:, BUSY] / rows[:, ITERATIONS]).tolist()
        whole = float(rows[:, SECONDS].mean() / rows[:, ITERATIONS].mean())
        for rank, seconds in enumerate(own):
            usual = statistics.median(own[:rank] + own[rank + 1 :])
            slow = seconds > self.ratio * usual and seconds - usual > 0.05 * whole
            if slow and rank not in self._named:
                runner.logger.warning(
                    "straggler: rank %d takes %.1f times as long as the others (%.4f s against %.4f s an iteration, "
                    "data and forward pass, over the last %.0f s): they wait for it",
                    rank,
                    seconds / max(usual, 1e-9),
                    seconds,
                    usual,
                    float(rows[0, SECONDS]),
                )
                runner.visualizer.add_scalars({"workers/straggler": seconds / max(usual, 1e-9)}, step=runner.iter + 1)
            self._named = self._named | {rank} if slow else self._named - {rank}

    def _report(self, runner: RunContext, iteration: int) -> None:
        """Log each rank's throughput as a line and as scalars."""
        assert self._total is not None
        rates = (self._total[:, SAMPLES] / self._total[:, SECONDS]).tolist()
        busy = (100 * self._total[:, BUSY] / self._total[:, SECONDS]).tolist()
        shown = [f"rank {i} {rate:.1f} (busy {busy[i]:.0f} %)" for i, rate in enumerate(rates)]
        if len(shown) > 8:
            shown = [*shown[:4], f"... {len(shown) - 8} more ...", *shown[-4:]]
        ranks = f"; {', '.join(shown)}" if len(rates) > 1 else ""
        runner.logger.info("throughput: %.1f samples/s%s", sum(rates), ranks)
        scalars: Mapping[str, float] = {
            "workers/samples_per_s": sum(rates),
            **{f"workers/{i}/samples_per_s": rate for i, rate in enumerate(rates)},
            **{f"workers/{i}/busy_percent": load for i, load in enumerate(busy)},
        }
        runner.visualizer.add_scalars(scalars, step=iteration)
        runner.scalar_log.write(scalars, mode="workers", iteration=iteration, step=iteration)


def _reason_in(rows: torch.Tensor) -> str | None:
    asked = int(rows[:, ASKED].max())
    return REASONS[asked - 1] if asked else None


def _num_samples(batch: DataBatch) -> int:
    samples = batch.get("data_samples", batch.get("inputs", ())) if isinstance(batch, Mapping) else ()
    return len(samples) if isinstance(samples, Sized) else 0


def _num_shared_batches(loader: DataLoader | None) -> int:
    """Return how many batches every rank has of a loader (of several, the first): shares may differ by one.

    After the first loader a rank may be at its metric while another has a batch more.
    """
    loader = getattr(loader, "loaders", [loader])[0]
    try:
        count = len(loader)
    except TypeError:
        count = 0
    shared = torch.tensor(count)
    dist.all_reduce(shared, "min")
    return int(shared)


def _saved_at(runner: RunContext) -> str | None:
    """Return the checkpoint of the current iteration, if there is one."""
    runner.store.drain()
    store, run, step = runner.store, runner.run_name, runner.iter
    found = store.find(lambda manifest: manifest.resumable and manifest.run == run and manifest.step == step)
    return None if found is None else str(store.location(found))
