"""`GuardHook`: how a run goes on when a loss or gradient is not finite. Clean weights are the wrapper's doing."""

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
HELD = 16  # batches that are held where a device does not say how their steps went


@HOOKS.register_module()
class GuardHook(Hook):
    """Says which steps were left out because a loss or gradient was not finite, and decides how the run goes on.

    The optim wrapper leaves such a step out on the device: no weight, moment or BatchNorm statistic changes. This hook
    looks at the log points, where training waits for the device anyway. It names the first such step's iteration, rank,
    samples and losses, and, by trying the batch again, what was not finite first: the batch, a module's output, or a
    gradient. Batches are held only until the device has said, without being waited for, that their step was good.

    A run that ends here ends with one sentence and exit code 2: to start it again as it is would end it again. It ends
    as well if not one of its steps was good.

    Priority 65: after `LoggerHook` (60), before schedules move on (70) and checkpoints are saved (90). On by default
    as `default_hooks.guard`; `guard=None` leaves the reports out, `optim_wrapper.guard=False` the whole guard.

    Args:
        policy: `'skip'` goes on until `max_bad_steps` in a row are bad. `'stop'` ends the run at the first. With
            `'rollback'`, `max_bad_steps` in a row lead back: weights and moments become those of the newest
            checkpoint from before the row, and the run goes on with the batches to come, at the learning rate of now;
            what lies between is not trained on again, since an exact run would come to the same end.
        max_bad_steps: Bad steps in a row that are borne.
        max_rollbacks: Ways back that are taken, each to an older checkpoint or a newer one than the last; then the run
            ends.
        interval: Iterations after which the device is asked, where no log line does it before.
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
        self._used: list[str] = []  # checkpoints that a way led back to
        self._any_good = False
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """The checkpoints that the run went back to, and whether any step was good."""
        return {"used": self._used, "any_good": self._any_good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._used, self._any_good = list(state["used"]), bool(state["any_good"])

    def _forget(self) -> None:
        self._held: dict[int, Any] = {}  # batches whose step is not known to be good
        self._suspects: dict[int, Any] = {}  # those of the first bad step since the last look

    def before_train(self, runner: RunContext) -> None:
        """Begin."""
        self._on = getattr(runner.optim_wrapper, "verdicts", lambda: None)() is not None
        self._loggers: list[Any] = [hook for hook in runner.hooks if hasattr(hook, "is_log_point")]
        self._looked = self._begun = runner.iter
        self._forget()

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Hold the batch until its step is known to be good; look, if it is time."""
        if not self._on:
            return
        now = runner.iter + 1
        self._held[now] = data_batch
        self._let_go(runner)
        # Asked of the logger, and not whether anybody has just read the history: all ranks have to look together.
        due = now - self._looked >= self.interval
        for logger in self._loggers:
            due = due or logger.is_log_point
        if due:
            self._look(runner, now)

    def after_train(self, runner: RunContext) -> None:
        """Look at what is left; a run without one good step has failed."""
        if not self._on or runner.iter == self._begun:
            return
        if self._looked < runner.iter:
            self._look(runner, runner.iter)
        if not self._any_good:
            raise self._end(f"none of the {runner.iter} steps was good", self._last_words)

    def _let_go(self, runner: RunContext) -> None:
        """Drop batches of good steps; of bad ones, keep those of the first."""
        for judged, bad in runner.optim_wrapper.verdicts() or ():
            if not bad and len(self._held) == 1 and judged in self._held:  # as nearly always
                self._held.clear()
                self._any_good = True
                continue
            part = {i: self._held.pop(i) for i in list(self._held) if i <= judged}
            if bad and not self._suspects:
                self._suspects = part
            self._any_good |= not bad
        while len(self._held) > HELD:
            del self._held[next(iter(self._held))]

    def _look(self, runner: RunContext, now: int) -> None:
        """Ask the device; report and decide, if steps were left out."""
        steps = now - self._looked
        wrapper = runner.optim_wrapper
        found = wrapper.read_guard()
        self._let_go(runner)
        self._any_good |= not found[0]  # not every device, and not every training step, says how each step went
        # A rank may judge by its own loss alone (float16 does): what one found, all have to know.
        ranks: list[tuple[int, int, int, bool]] = dist.all_gather_object((*found, self._any_good))
        self._any_good = all(rank[3] for rank in ranks)
        count, row = max(rank[0] for rank in ranks), max(rank[2] for rank in ranks)
        if count:
            first = min(rank[1] for rank in ranks if rank[0])
            self._last_words = self._report(runner, count, first, steps)
            if self.policy == "stop":
                raise self._end(f"training stopped at iteration {first}", self._last_words)
            if row >= self.max_bad_steps:
                self._end_row(runner, row, now)
        self._looked = now
        self._forget()

    def _end_row(self, runner: RunContext, row: int, now: int) -> None:
        """Too many in a row: go back, or end."""
        if self.policy == "rollback" and len(self._used) < self.max_rollbacks:
            # A checkpoint of the step before the row has the very weights that fail.
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
            f"{what}; {why}. Mend the data, or lower the learning rate or clip_grad; default_hooks.guard=dict("
            f"type='GuardHook', policy={self.policy!r}, max_bad_steps={self.max_bad_steps}) is what ended it"
        )

    _last_words = ""

    def _report(self, runner: RunContext, count: int, first: int, steps: int) -> str:
        """One line on the steps that were left out.

        Returns:
            Who was at fault in the first of them, in words.
        """
        suspects = self._suspects or {i: batch for i, batch in self._held.items() if i <= first}
        fault = ""
        # As many on each rank: a forward pass may ask the other ranks.
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
        """Names of the losses of some iterations that are not finite; this rank's own."""
        bad = []
        runner.message_hub.flush()
        for key, series in runner.message_hub.log_scalars.items():
            if not key.startswith("train/") or "loss" not in key:
                continue
            values = series.data[-steps:]
            places = [i - self._looked - 1 for i in iterations]  # (a wrapper that updates more often counts on)
            at = [values[place] for place in places if len(values) == steps and 0 <= place < steps]
            if not all(map(math.isfinite, at)):
                bad.append(key.removeprefix("train/"))
        parts = [name for name in bad if name != "loss"]
        return parts or bad


def _ids_of(data_batch: Any) -> list[Any]:
    """The ids of a batch's samples, as far as they have some."""
    samples = data_batch.get("data_samples") if isinstance(data_batch, Mapping) else None
    ids = [getattr(sample, "sample_idx", None) for sample in samples or ()]
    return [number for number in ids if number is not None]
