"""`GuardHook`: report steps that were skipped as non-finite; continue, stop or roll back."""

from __future__ import annotations

import math
from typing import Literal

from raydet3d import dist
from raydet3d.config.type_check import PositiveInt
from raydet3d.errors import InputError
from raydet3d.hooks.base import Hook, sample_ids
from raydet3d.hooks.context import DataBatch, Losses, RunContext, StateDict
from raydet3d.registry import HOOKS

MAX_KEPT = 16  # batches kept while the device has not reported whether their steps were finite


@HOOKS.register_module()
class GuardHook(Hook):
    """Report steps that were skipped because a loss or gradient was not finite; continue, stop or roll back.

    The optim wrapper skips such a step on the device: no weight, moment or BatchNorm statistic changes. This hook reads
    the result at log points, where training synchronises with the device anyway. It reports the iteration, rank,
    samples and losses of the first bad step and, by replaying the batch, what was not finite first: the batch, a
    module's output, or a gradient. A batch is kept only until an asynchronous read shows that its step was good.

    If this hook ends the run, it raises a one-line error with exit code 2, since a retry would fail in the same way.
    It also ends a run in which no step was good.

    Priority 65: after `LoggerHook` (60), before schedules advance (70) and checkpoints are saved (90). On by default
    as `default_hooks.guard`; `guard=None` disables the reports, `optim_wrapper.guard=False` also the skipping.

    Args:
        policy: `'skip'` continues until `max_bad_steps` in a row are bad. `'stop'` ends the run at the first. With
            `'rollback'`, `max_bad_steps` in a row restore weights and moments from the newest checkpoint from before
            the first of them; the run continues with the next batch, at the current learning rate. The batches since
            that checkpoint are not repeated, since a deterministic run would fail on them again.
        max_bad_steps: Consecutive bad steps that end the run or cause a rollback.
        max_rollbacks: Maximum number of rollbacks, each to a checkpoint not used before; then the run ends.
        interval: Maximum number of iterations between two reads of the device, if log points are further apart.
    """

    priority = 65

    def __init__(
        self,
        policy: Literal["skip", "stop", "rollback"] = "skip",
        max_bad_steps: PositiveInt = 20,
        max_rollbacks: PositiveInt = 3,
        interval: PositiveInt = 200,
    ) -> None:
        self.policy = policy
        self.max_bad_steps = max_bad_steps
        self.max_rollbacks = max_rollbacks
        self.interval = interval
        self._used: list[str] = []
        self._any_good = False
        self._last_report = ""

    def state_dict(self) -> StateDict:
        """Return the checkpoints already used for rollbacks, and whether any step was good."""
        return {"used": self._used, "any_good": self._any_good}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""
        self._used, self._any_good = list(state["used"]), bool(state["any_good"])

    def before_train(self, runner: RunContext) -> None:
        """Check whether the optim wrapper skips non-finite steps, and reset the counters."""
        self._on = bool(getattr(runner.optim_wrapper, "is_guarded", False))
        self._looked = self._begun = runner.iter
        self._rows: dict[str, int] = {}  # consecutive bad steps, by optimizer
        self._forget()

    def _forget(self) -> None:
        self._kept: dict[int, DataBatch] = {}  # batches by iteration whose step is not yet known to be good
        self._bad_batches: dict[int, DataBatch] = {}  # batches of the first bad step since the last `_look`
        self._bad: list[int] = []  # iterations of the bad steps

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Keep the batch until its step is known to be good; read the device's results at log points."""
        if not self._on:
            return
        now = runner.iter + 1
        self._kept[now] = data_batch
        self._read(runner, wait=False)
        # `_look` is a collective call, so the condition must be the same on all ranks: the logger's interval.
        if runner.progress.last_log == now or now - self._looked >= self.interval:
            self._look(runner, now)

    def after_train(self, runner: RunContext) -> None:
        """Report the remaining bad steps; raise an error if no step of the run was good."""
        if not self._on or runner.iter == self._begun:
            return
        if self._looked < runner.iter:
            self._look(runner, runner.iter)
        if not self._any_good:
            raise self._end(f"none of the {runner.iter} steps was good")

    def _read(self, runner: RunContext, *, wait: bool) -> None:
        """Read the available verdicts, and drop all their batches but those of the first bad step."""
        for iteration, is_bad, optimizer in runner.optim_wrapper.verdicts(wait=wait):
            done = {i: self._kept.pop(i) for i in list(self._kept) if i <= iteration}
            self._rows[optimizer] = self._rows.get(optimizer, 0) + 1 if is_bad else 0
            self._any_good |= not is_bad
            if is_bad:
                self._bad_batches = self._bad_batches if self._bad else done
                self._bad.append(iteration)
        while len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def _look(self, runner: RunContext, now: int) -> None:
        """Synchronise with the device, report bad steps, and apply the policy."""
        self._read(runner, wait=True)
        self._any_good |= not self._bad  # a custom `train_step` may yield no verdicts
        mine = (self._bad, max(self._rows.values(), default=0), self._any_good)
        # With float16 a rank checks only its own loss, so the ranks must exchange their results.
        steps, rows, goods = zip(*dist.all_gather_object(mine), strict=True)
        self._any_good = all(goods)
        if any(steps):
            bad = sorted(set().union(*steps))
            runner.scalar_log.write({"bad_steps": bad}, mode="guard", iteration=now, step=now)
            self._report(runner, max(map(len, steps)), bad[0], now - self._looked)
            if self.policy == "stop":
                raise self._end(f"training stopped at iteration {bad[0]}")
            row = max(rows)
            if row >= self.max_bad_steps and not self._roll_back(runner, row, now):
                back = f" after {len(self._used)} rollbacks" if self._used else ""
                if self.policy == "rollback" and not self._used:
                    back = ", and there is no checkpoint from before to go back to"
                raise self._end(f"training ended at iteration {now}: the last {row} steps in a row were bad{back}")
        self._looked = now
        self._forget()

    def _roll_back(self, runner: RunContext, row: int, now: int) -> bool:
        """Restore an earlier checkpoint after `row` consecutive bad steps; return whether that was possible."""
        if self.policy != "rollback" or len(self._used) >= self.max_rollbacks:
            return False
        # A checkpoint of the step just before the first bad one holds the weights that fail.
        name = runner.roll_back(before=now - row, passed_over=self._used)
        if name is None:
            return False
        self._used.append(name)
        runner.logger.warning(
            "the last %d steps in a row were bad: back to the weights of %s, on with the next batch (%d of %d)",
            row,
            name,
            len(self._used),
            self.max_rollbacks,
        )
        return True

    def _end(self, what: str) -> InputError:
        return InputError(
            f"{what}; {self._last_report}. Fix the data, or lower the learning rate or clip_grad; default_hooks.guard="
            f"dict(type='GuardHook', policy={self.policy!r}, max_bad_steps={self.max_bad_steps}) is what ended it"
        )

    def _report(self, runner: RunContext, count: int, first: int, steps: int) -> None:
        """Log one line about the skipped steps, and keep what it says of the first of them."""
        bad_batches = self._bad_batches or {i: batch for i, batch in self._kept.items() if i <= first}
        fault = ""
        # The same number on each rank, since a forward pass may contain collective calls.
        tries = min(dist.all_gather_object(len(bad_batches)))
        for batch in [*bad_batches.values()][:tries]:
            found = runner.diagnose_nonfinite(batch)
            if not fault or fault.startswith("tried again"):
                fault = found
        ids = [number for batch in bad_batches.values() for number in sample_ids(batch)]
        mine = (self._bad_losses(runner, list(bad_batches) or [first], steps), ids, fault)
        ranks = dist.all_gather_object(mine)
        faulty = next((rank for rank, found in enumerate(ranks) if found[0]), 0)
        losses, ids, fault = ranks[faulty]
        verb = "were" if len(losses) > 1 else "was"
        loss = f"{', '.join(losses)} {verb} not finite" if losses else "the losses were finite, a gradient was not"
        words = f"first at iteration {first} (rank {faulty}, samples {ids or 'without ids'}): {loss}"
        self._last_report = f"{words}; {fault}" if fault else words
        runner.logger.error("%d of the last %d steps left out, weights untouched: %s", count, steps, self._last_report)

    def _bad_losses(self, runner: RunContext, iterations: list[int], steps: int) -> list[str]:
        """Return the names of this rank's losses that are not finite at the given iterations."""
        bad = []
        for key, series in runner.message_hub.log_scalars.items():
            if key.startswith("train/") and "loss" in key:
                values = series.data[-steps:]
                # Out of range if the wrapper updates several times per iteration.
                places = [i - self._looked - 1 for i in iterations if len(values) == steps]
                if not all(math.isfinite(values[place]) for place in places if 0 <= place < steps):
                    bad.append(key.removeprefix("train/"))
        return [name for name in bad if name != "loss"] or bad
