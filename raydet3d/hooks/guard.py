"""`GuardHook`: report steps that were skipped as non-finite; continue, stop or roll back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, RunContext
from raydet3d.registry import HOOKS

POLICIES = ("skip", "stop", "rollback")
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
        self, policy: str = "skip", max_bad_steps: int = 20, max_rollbacks: int = 3, interval: int = 200
    ) -> None:
        if policy not in POLICIES:
            raise InputError(f"GuardHook: policy must be {', '.join(POLICIES[:-1])} or {POLICIES[-1]}, got {policy!r}")
        for name, value in (("max_bad_steps", max_bad_steps), ("max_rollbacks", max_rollbacks), ("interval", interval)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"GuardHook: {name} must be an integer of at least 1, got {value!r}")
        self.policy = policy
        self.max_bad_steps = max_bad_steps
        self.max_rollbacks = max_rollbacks
        self.interval = interval
        self._used: list[str] = []  # names of the checkpoints used for rollbacks
        self._any_good = False
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoints already used for rollbacks, and whether any step was good."""
        return {"used": self._used, "any_good": self._any_good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._used, self._any_good = list(state["used"]), bool(state["any_good"])

    def _forget(self) -> None:
        self._kept: dict[int, Any] = {}  # batches by iteration whose step is not yet known to be good
        self._suspects: dict[int, Any] = {}  # batches of the first bad step since the last `_look`
        self._num_bad = 0
        self._first_bad: int | None = None

    def before_train(self, runner: RunContext) -> None:
        """Check whether the optim wrapper skips non-finite steps, and reset the counters."""
        self._on = bool(getattr(runner.optim_wrapper, "is_guarded", False))
        self._looked = self._begun = runner.iter
        self._rows: dict[str, int] = {}  # consecutive bad steps, by optimizer
        self._forget()

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
            raise self._end(f"none of the {runner.iter} steps was good", self._last_words)

    def _read(self, runner: RunContext, *, wait: bool) -> None:
        """Read the available verdicts, and drop all their batches but those of the first bad step."""
        for iteration, is_bad, optimizer in runner.optim_wrapper.verdicts(wait=wait):
            done = {i: self._kept.pop(i) for i in list(self._kept) if i <= iteration}
            self._rows[optimizer] = self._rows.get(optimizer, 0) + 1 if is_bad else 0
            self._any_good |= not is_bad
            if is_bad:
                self._num_bad += 1
                if self._first_bad is None:
                    self._first_bad, self._suspects = iteration, done
        while len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def _look(self, runner: RunContext, now: int) -> None:
        """Synchronise with the device, report bad steps, and apply the policy."""
        steps = now - self._looked
        self._read(runner, wait=True)
        self._any_good |= not self._num_bad  # a custom `train_step` may yield no verdicts
        row = max(self._rows.values(), default=0)
        # With float16 a rank checks only its own loss, so the ranks must exchange their results.
        ranks: list[tuple[int, int | None, int, bool]] = dist.all_gather_object(
            (self._num_bad, self._first_bad, row, self._any_good)
        )
        counts, firsts, rows, goods = zip(*ranks, strict=True)
        self._any_good = all(goods)
        if max(counts):
            first = min(first for first in firsts if first is not None)
            self._last_words = self._report(runner, max(counts), first, steps)
            if self.policy == "stop":
                raise self._end(f"training stopped at iteration {first}", self._last_words)
            if max(rows) >= self.max_bad_steps:
                self._end_row(runner, max(rows), now)
        self._looked = now
        self._forget()

    def _end_row(self, runner: RunContext, row: int, now: int) -> None:
        """Roll back or end the run after too many consecutive bad steps."""
        if self.policy == "rollback" and len(self._used) < self.max_rollbacks:
            # A checkpoint of the step just before the first bad one holds the weights that fail.
            name = runner.roll_back(before=now - row, passed_over=self._used)
            if name is not None:
                self._used.append(name)
                runner.logger.warning(
                    "the last %d steps in a row were bad: back to the weights of %s, on with the next batch (%d of %d)",
                    row,
                    name,
                    len(self._used),
                    self.max_rollbacks,
                )
                return
        back = ""
        if self.policy == "rollback":
            used = len(self._used)
            back = f" after {used} rollbacks" if used else ", and there is no checkpoint from before to go back to"
        what = f"training ended at iteration {now}: the last {row} steps in a row were bad{back}"
        raise self._end(what, self._last_words)

    def _end(self, what: str, why: str) -> InputError:
        return InputError(
            f"{what}; {why}. Fix the data, or lower the learning rate or clip_grad; default_hooks.guard=dict("
            f"type='GuardHook', policy={self.policy!r}, max_bad_steps={self.max_bad_steps}) is what ended it"
        )

    _last_words = ""

    def _report(self, runner: RunContext, count: int, first: int, steps: int) -> str:
        """Log one line about the skipped steps.

        Returns:
            Description of what was not finite in the first of them.
        """
        suspects = self._suspects or {i: batch for i, batch in self._kept.items() if i <= first}
        fault = ""
        # The same number on each rank, since a forward pass may contain collective calls.
        tries = min(dist.all_gather_object(len(suspects)))
        for batch in [*suspects.values()][:tries]:
            found = runner.diagnose_nonfinite(batch)
            if not fault or fault.startswith("tried again"):
                fault = found
        ids = [number for batch in suspects.values() for number in _ids_of(batch)]
        mine = (self._bad_losses(runner, list(suspects) or [first], steps), ids, fault)
        ranks = dist.all_gather_object(mine)
        guilty = next((rank for rank, found in enumerate(ranks) if found[0]), 0)
        losses, ids, fault = ranks[guilty]
        verb = "were" if len(losses) > 1 else "was"
        loss = f"{', '.join(losses)} {verb} not finite" if losses else "the losses were finite, a gradient was not"
        words = f"first at iteration {first} (rank {guilty}, samples {ids or 'without ids'}): {loss}"
        words = f"{words}; {fault}" if fault else words
        runner.logger.error("%d of the last %d steps left out, weights untouched: %s", count, steps, words)
        return words

    def _bad_losses(self, runner: RunContext, iterations: list[int], steps: int) -> list[str]:
        """Return the names of this rank's losses that are not finite at the given iterations."""
        bad = []
        runner.message_hub.flush()
        for key, series in runner.message_hub.log_scalars.items():
            if not key.startswith("train/") or "loss" not in key:
                continue
            values = series.data[-steps:]
            # Out of range if the wrapper updates several times per iteration.
            places = [i - self._looked - 1 for i in iterations]
            at = [values[place] for place in places if len(values) == steps and 0 <= place < steps]
            if not all(map(math.isfinite, at)):
                bad.append(key.removeprefix("train/"))
        parts = [name for name in bad if name != "loss"]
        return parts or bad


def _ids_of(data_batch: Any) -> list[Any]:
    """Return the `sample_idx` of each sample of a batch that has one."""
    samples = data_batch.get("data_samples") if isinstance(data_batch, Mapping) else None
    ids = [getattr(sample, "sample_idx", None) for sample in samples or ()]
    return [number for number in ids if number is not None]
