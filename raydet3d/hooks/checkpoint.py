"""`CheckpointHook`: decide when to save and which checkpoint is best; the checkpoint store writes the files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from raydet3d.errors import InputAssertionError, InputError
from raydet3d.files import parse_bytes
from raydet3d.hooks.backend_args import only_local
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, Losses, Metrics, PartCfg, RunContext, StateDict
from raydet3d.hooks.metric_rules import GREATER_KEYS, LESS_KEYS, given_score, infer_rule, is_better, numbers
from raydet3d.registry import HOOKS


class _Best(TypedDict):
    """Best score of a metric, and the name of the checkpoint that has it."""

    score: float
    name: str


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Saves the run at intervals and at its end, and the best model of all validations.

    With `interval=-1` only the final checkpoint is kept, as in MMEngine; until the end, the checkpoint of the newest
    epoch (or validation interval) is kept instead, so that a crash loses at most one epoch. Priority VERY_LOW: after
    all other hooks of an iteration, epoch or validation, except `EarlyStoppingHook`.

    Args:
        interval: Number of epochs (iterations) between two checkpoints.
        by_epoch: Count epochs rather than iterations.
        save_optimizer: Save the optimizer's state; without it a run cannot be resumed from the checkpoint.
        save_param_scheduler: Save the state of the parameter schedulers.
        out_dir: Folder to save to, under the work dir's name; the work dir by default.
        max_keep_ckpts: Number of regular checkpoints to keep; the oldest are deleted once a newer one is complete.
            -1 keeps all.
        keep_every: Checkpoints whose number is a multiple of this are milestones, which `max_keep_ckpts` does not
            delete.
        keep_bytes: Limit on the total size of the run's checkpoints, in bytes or as text such as `'20GB'`. The oldest
            are deleted first and milestones last; the newest and the best are always kept. Space for one more
            checkpoint is needed while one is written.
        save_last: Always save at the end of training, including an early stop.
        save_best: Metric (or list of metrics) whose best model is saved as `best_<metric>_epoch_N.pth`, without the
            optimizer; `'auto'` selects the first metric of the first validation.
        rule: Whether `'greater'` or `'less'` is better (or a list, one per metric); inferred from the metric's name
            by default.
        greater_keys: Names, or substrings of names, of metrics of which greater is better.
        less_keys: Names, or substrings of names, of metrics of which less is better.
        file_client_args: Deprecated name of `backend_args`.
        filename_tmpl: File name with one `{}`; `epoch_{}.pth` or `iter_{}.pth` by default. Also used as the suffix of
            the best model's name.
        backend_args: None or `dict(backend='local')`.
        published_keys: At the end, also write the newest and the best checkpoint with only these keys, under a name
            that ends in a digest.
        save_begin: First epoch (iteration) at which a checkpoint may be saved.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | Path | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | Sequence[str] | None = None,
        rule: str | Sequence[str] | None = None,
        greater_keys: str | Sequence[str] | None = None,
        less_keys: str | Sequence[str] | None = None,
        file_client_args: PartCfg | None = None,
        filename_tmpl: str | None = None,
        backend_args: PartCfg | None = None,
        published_keys: str | Sequence[str] | None = None,
        save_begin: int = 0,
        keep_every: int | None = None,
        keep_bytes: int | str | None = None,
    ) -> None:
        if save_begin < 0:
            raise InputError(f"CheckpointHook: save_begin must be 0 or more, got {save_begin}")
        if keep_every is not None and (isinstance(keep_every, bool) or keep_every < 1):
            raise InputError(f"CheckpointHook: keep_every must be a whole number from 1 up, got {keep_every!r}")
        self.keep_every = keep_every
        self.keep_bytes = None if keep_bytes is None else _parse_budget(keep_bytes)
        only_local("CheckpointHook", backend_args, file_client_args)
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.save_param_scheduler = save_param_scheduler
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.save_begin = save_begin
        self.filename_tmpl = filename_tmpl or ("epoch_{}.pth" if by_epoch else "iter_{}.pth")
        self.published_keys = [published_keys] if isinstance(published_keys, str) else list(published_keys or [])
        self._given_dir = None if out_dir is None else str(out_dir).rstrip("/")
        self.greater_keys = _names("greater_keys", GREATER_KEYS if greater_keys is None else greater_keys)
        self.less_keys = _names("less_keys", LESS_KEYS if less_keys is None else less_keys)
        self.save_best = list(_names("save_best", save_best or []))
        if "auto" in self.save_best and len(self.save_best) > 1:
            raise InputAssertionError("CheckpointHook: save_best='auto' cannot be combined with other metrics")
        rules = list(_names("rule", rule or []))
        if rules and len(rules) not in (1, len(self.save_best)):
            raise InputAssertionError(
                f"CheckpointHook: {len(rules)} rules for {len(self.save_best)} metrics in save_best"
            )
        for one in rules:
            if one not in ("greater", "less"):
                raise InputError(f"CheckpointHook: rule must be 'greater' or 'less', got {one!r}")
        self._rules = {
            key: rules[i if len(rules) > 1 else 0] if rules else self._rule_of(key)
            for i, key in enumerate(self.save_best)
            if key != "auto"
        }
        self._given_rule = rules[0] if rules else None
        self._best: dict[str, _Best] = {}
        self._last: str | None = None
        self._last_step = -1  # finished iterations in the newest checkpoint

    @property
    def key_indicators(self) -> list[str]:
        """The metrics of `save_best`, under MMEngine's name."""
        return self.save_best

    @property
    def rules(self) -> list[str]:
        """Whether greater or less is better, for each metric of `save_best`."""
        return [self._rules[key] for key in self.save_best if key in self._rules]

    @property
    def headline(self) -> list[str]:
        """Names of the metrics in the summary at the end of a run."""
        return [key for key in self.save_best if key != "auto"]

    @property
    def required_metrics(self) -> list[tuple[str, str]]:
        """Metrics of `save_best`, which validation must return."""
        return [("save_best", key) for key in self.save_best]

    def state_dict(self) -> StateDict:
        """Return the best scores with their files, and the newest regular checkpoint."""
        return {"best": {key: dict(value) for key, value in self._best.items()}, "last": self._last}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""
        self._best = {key: {"score": best["score"], "name": best["name"]} for key, best in state["best"].items()}
        self._last = state["last"]

    # -- regular checkpoints ------------------------------------------------------------------------------------

    def before_train(self, runner: RunContext) -> None:
        """Record the restored best and newest checkpoints in the message hub."""
        # Create the store here, since a rollback may read it before the first save.
        runner.logger.info("Checkpoints will be saved to %s.", runner.store_in(self._folder(runner)).home)
        self._tell(runner)

    def after_train_epoch(self, runner: RunContext) -> None:
        """Save a checkpoint if this epoch is due."""
        if not self.by_epoch:
            return
        last = self.is_last_train_epoch(runner)
        if self.every_n_epochs(runner, self.interval, self.save_begin) or (self.save_last and last):
            self._save(runner, runner.epoch + 1)
        elif self._rolls:
            self._save(runner, runner.epoch + 1, limit=1)

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Save a checkpoint if this iteration is due."""
        if self.by_epoch:
            return
        last = self.is_last_train_iter(runner)
        if self.every_n_train_iters(runner, self.interval, self.save_begin) or (self.save_last and last):
            self._save(runner, runner.iter + 1)
        elif self._rolls and self.every_n_train_iters(runner, _stride(runner)):
            self._save(runner, runner.iter + 1, limit=1)

    @property
    def _rolls(self) -> bool:
        """Whether to keep a single rolling checkpoint, since no other one exists before the end."""
        return self.interval <= 0 and self.save_last

    def _save(self, runner: RunContext, number: int, limit: int | None = None) -> None:
        name = self.filename_tmpl.format(number)
        limit = limit if limit is not None else 1 if self._rolls else self.max_keep_ckpts
        runner.logger.info("Saving checkpoint at %d %s", number, "epochs" if self.by_epoch else "iterations")
        self._last, self._last_step = name, runner.progress.state_dict()["iter"]
        self._tell(runner)
        runner.save_checkpoint(
            self._folder(runner),
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            by_epoch=self.by_epoch,
            group="epoch" if self.by_epoch else "iter",
            limit=limit,
            point=True,
            milestone=self.keep_every is not None and number % self.keep_every == 0,
            budget=self.keep_bytes,
        )

    def _folder(self, runner: RunContext) -> Path | str:
        if self._given_dir is None:
            return runner.work_dir
        folder = f"{self._given_dir}/{runner.work_dir.name}"
        return folder if "://" in folder else Path(folder)

    # -- the best -----------------------------------------------------------------------------------------------

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Save the model if a metric of `save_best` has improved."""
        if not self.save_best or not runner.is_training:
            return
        scores = numbers(metrics or {})
        if self.save_best == ["auto"]:
            if not scores:
                raise InputError("CheckpointHook: save_best='auto', but validation gave no metric")
            first = next(iter(scores))
            self.save_best = [first]
            self._rules = {first: self._given_rule or self._rule_of(first)}
        for key in self.save_best:
            score = given_score(scores, key, owner="CheckpointHook", key="save_best")
            before = self._best[key]["score"] if key in self._best else None
            if not math.isnan(score) and (before is None or is_better(score, before, self._rules[key])):
                self._save_best(runner, key, score, scores)
        self._tell(runner)

    def _save_best(self, runner: RunContext, key: str, score: float, scores: Mapping[str, float]) -> None:
        name = self.filename_tmpl.format(runner.epoch if self.by_epoch else runner.iter)
        name = f"best_{key}_{name}".replace("/", "_")
        self._best[key] = {"score": score, "name": name}
        at = f"{runner.epoch} epoch" if self.by_epoch else f"{runner.iter} iter"
        runner.logger.info("The best checkpoint with %.4f %s at %s is saved to %s.", score, key, at, name)
        runner.save_checkpoint(
            self._folder(runner),
            name,
            save_optimizer=False,
            save_param_scheduler=False,
            by_epoch=self.by_epoch,
            group=f"best_{key}",
            limit=1,
            scores=scores,
            budget=self.keep_bytes,
        )

    def _rule_of(self, key: str) -> str:
        """Infer from a metric's name whether greater or less is better."""
        return infer_rule(key, self.greater_keys, self.less_keys, owner="CheckpointHook", key="save_best")

    def _tell(self, runner: RunContext) -> None:
        """Record newest and best checkpoints in the message hub, under MMEngine's keys."""
        place = runner.store_in(self._folder(runner)).storage
        facts: dict[str, float | str] = {}
        if self._last is not None:
            facts["last_ckpt"] = str(place.location(self._last))
        for key, best in self._best.items():
            suffix = f"_{key}" if len(self.save_best) > 1 else ""
            facts[f"best_score{suffix}"] = best["score"]
            facts[f"best_ckpt{suffix}"] = str(place.location(best["name"]))
        runner.message_hub.update_info_dict(facts, resumed=False)

    # -- the end ------------------------------------------------------------------------------------------------

    def after_train(self, runner: RunContext) -> None:
        """Save a checkpoint after an early stop, and write the published checkpoints."""
        stopped = getattr(runner.train_loop, "stop_training", False)  # a custom loop may lack it
        if self.save_last and stopped and self._last_step < runner.iter:
            self._save(runner, runner.epoch if self.by_epoch else runner.iter)
        self._publish(runner)

    def _publish(self, runner: RunContext) -> None:
        """Write the newest and the best checkpoint with the published keys only."""
        if not self.published_keys or runner.rank != 0:
            return
        store = runner.store_in(self._folder(runner))
        for name in filter(None, [self._last, *(best["name"] for best in self._best.values())]):
            published = store.publish(name, self.published_keys)
            if published is not None:
                runner.logger.info("published %s", published)


def _names(argument: str, given: str | Sequence[str]) -> Sequence[str]:
    """Return the names that an argument gives, which may be a single one.

    Raises:
        InputAssertionError: It gives something else.
    """
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputAssertionError(f"CheckpointHook: {argument} must be a name or a list of names, got {given!r}")
    return names


def _parse_budget(size: int | str) -> int:
    try:
        return parse_bytes(size)
    except ValueError as error:
        raise InputError(f"CheckpointHook: keep_bytes: {error}") from None


def _stride(runner: RunContext) -> int:
    """Return the iterations per epoch or per validation interval, depending on the unit of `val_interval`."""
    by_epoch = getattr(runner.train_loop, "by_epoch", True)
    return len(runner.train_dataloader) if by_epoch else runner.val_interval
