"""Training, validation and test loops: order of the steps, and when to validate; hooks do all else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from raydet3d.config.type_check import NonNegativeInt, PositiveInt, checked
from raydet3d.dist import all_gather_object, broadcast_buffers
from raydet3d.errors import InputError
from raydet3d.hooks.base import sample_ids
from raydet3d.hooks.context import DataBatch, DataLoader, PartCfg, RunContext, StepModel
from raydet3d.registry import LOOPS
from raydet3d.runtime import rng
from raydet3d.runtime.evaluator import Evaluator
from raydet3d.runtime.loaders import Loaders, build_dataloader, protect_workers
from raydet3d.runtime.micro_batch import train_in_parts
from raydet3d.runtime.progress import Phase

T = TypeVar("T")
Intervals: TypeAlias = Sequence[tuple[PositiveInt, PositiveInt]] | None
"""Pairs of a milestone and the validation interval from there on."""


def set_position(loader: DataLoader, epoch: int, batches: int) -> None:
    """Set where the next pass over a loader begins, if its batch sampler has `set_position`.

    Args:
        loader: Data loader; without such a batch sampler, every pass begins at the first batch.
        epoch: Epoch of the next pass, from 0.
        batches: Batches of this epoch to skip (of the whole run, with an endless sampler).
    """
    stamped: Any = getattr(loader, "batch_sampler", None)
    if hasattr(stamped, "set_position"):
        stamped.set_position(epoch, batches)


class BaseLoop(ABC):
    """Base class of loops: `train_cfg`, `val_cfg` and `test_cfg` may name a registered subclass.

    Args:
        runner: Context of the run.
        dataloader: Data loader, or its config.
    """

    def __init__(self, runner: RunContext, dataloader: DataLoader | Loaders | PartCfg) -> None:
        self._runner = runner
        self.dataloader: Any = (
            build_dataloader(dataloader, seed=runner.seed)
            if isinstance(dataloader, Mapping)
            else protect_workers(dataloader)
        )

    @property
    def runner(self) -> RunContext:
        """Context of the run."""
        return self._runner

    @abstractmethod
    def run(self) -> object:
        """Run the loop."""


class _TrainLoop(BaseLoop):
    """Base class of the training loops.

    User-defined subclasses may override `run`, `run_epoch` and `run_iter` with bodies written for MMEngine's loops.

    Args:
        runner: Context of the run.
        dataloader: Data loader of this rank.
        limit: Number of epochs or iterations to train.
        name: Config key of `limit`, for error messages.
        val_begin: First epoch or iteration (from 1) after which a validation may run.
        val_interval: Number of epochs or iterations between validations.
        dynamic_intervals: `(milestone, interval)` pairs; from the milestone on, the interval replaces `val_interval`.

    Raises:
        InputError: The data loader is empty, or an argument is out of range.
    """

    max_epochs: int
    max_iters: int

    def __init__(
        self,
        runner: RunContext,
        dataloader: DataLoader,
        limit: int,
        val_begin: int,
        val_interval: int,
        dynamic_intervals: Intervals,
    ) -> None:
        if len(dataloader) == 0:
            raise InputError("train_dataloader gives no batch: fewer samples than batch_size, with drop_last=True?")
        super().__init__(runner, dataloader)
        self.limit = int(limit)
        self.val_begin: int = int(val_begin)
        self.val_interval: int = int(val_interval)
        self.stop_training: bool = False
        pairs = sorted((int(milestone), int(interval)) for milestone, interval in dynamic_intervals or ())
        self._milestones: list[int] = [0, *(milestone for milestone, _ in pairs)]
        self._intervals: list[int] = [self.val_interval, *(interval for _, interval in pairs)]

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.runner.progress.epoch

    @property
    def iter(self) -> int:
        """Finished iterations."""
        return self.runner.progress.iter

    @property
    def _iter(self) -> int:
        """Finished iterations; a user-defined `run_iter` increments it as in MMEngine: `self._iter += 1`."""
        return self.iter

    @_iter.setter
    def _iter(self, count: int) -> None:
        if count != self.iter + 1:
            raise InputError(f"run_iter ends one iteration at a time: _iter was {self.iter} and cannot become {count}")
        self.runner.progress.finish_iter()

    @property
    def _epoch(self) -> int:
        """Finished epochs; a user-defined `run_epoch` increments it as in MMEngine: `self._epoch += 1`."""
        return self.epoch

    @_epoch.setter
    def _epoch(self, count: int) -> None:
        if count != self.epoch + 1:
            raise InputError(f"run_epoch ends one epoch at a time: _epoch was {self.epoch} and cannot become {count}")
        self.runner.progress.finish_epoch()

    @property
    def _max_epochs(self) -> int:
        """Epochs to train, under the name that user-defined loops read as in MMEngine."""
        return self.max_epochs

    @property
    def _max_iters(self) -> int:
        """Iterations to train, under the name that user-defined loops read as in MMEngine."""
        return self.max_iters

    def _decide_interval(self, done: int) -> None:
        self.val_interval = self._intervals[bisect(self._milestones, done + 1) - 1]

    def _validate(self, done: int) -> None:
        """Validate if a validation is due after `done` epochs or iterations."""
        due = done >= self.val_begin and (done % self.val_interval == 0 or done == self.limit)
        if self.runner.val_loop is not None and due:
            self.runner.val_loop.run()
            self.runner.progress.validated = self.iter

    def _catch_up(self, done: int, *, between: bool = True) -> None:
        """Restore the validation interval of a resumed run, and run a validation that was interrupted.

        Args:
            done: Finished epochs or iterations.
            between: Whether training resumes between two epochs or iterations; otherwise no validation is pending.
        """
        if done > 0:
            self._decide_interval(done)
            if between and self.runner.progress.validated < self.iter:  # checkpoints precede the validation
                self._validate(done)

    def _train(self, batch_idx: int, data_batch: DataBatch) -> None:
        """Run one iteration with its hooks."""
        call = self.runner.call_hook
        call("before_train_iter", batch_idx=batch_idx, data_batch=data_batch)
        try:
            outputs = self._step(data_batch)
        except Exception as error:
            _blame(error, f"in the training step, epoch {self.epoch + 1}, iteration {self.iter + 1}", data_batch)
            raise
        call("after_train_iter", batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)
        self.runner.progress.finish_iter()

    def _step(self, data_batch: DataBatch) -> dict[str, Tensor]:
        """Run the training step, in micro-batches if the world size differs from the number of logical ranks."""
        runner = self.runner
        weigh = getattr(self.dataloader.batch_sampler, "micro_batch_weights", None)
        weights = [1.0] if weigh is None else weigh(runner.progress.batch)
        model = cast("StepModel", runner.model)
        if weights == [1.0]:
            return model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        return train_in_parts(model, data_batch, runner.optim_wrapper, weights)


@LOOPS.register_module()
class EpochBasedTrainLoop(_TrainLoop):
    """Train for a number of epochs and validate at intervals.

    Args:
        runner: Context of the run.
        dataloader: Data loader of this rank.
        max_epochs: Number of epochs to train.
        val_begin: First epoch (from 1) after which a validation may run.
        val_interval: Number of epochs between validations; from `val_begin` on, the last epoch is always validated.
        dynamic_intervals: `(milestone, interval)` pairs; once the next epoch (from 1) reaches the milestone, the
            interval replaces `val_interval`.
    """

    by_epoch = True

    @checked
    def __init__(
        self,
        runner: RunContext,
        dataloader: DataLoader,
        max_epochs: PositiveInt,
        val_begin: NonNegativeInt = 1,
        val_interval: PositiveInt = 1,
        dynamic_intervals: Intervals = None,
    ) -> None:
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals)
        self.max_epochs = self.limit
        self.max_iters = self.max_epochs * len(dataloader)

    def run(self) -> None:
        """Train until `max_epochs` is reached or `stop_training` is set."""
        self.runner.call_hook("before_train")
        self._catch_up(self.epoch, between=self.runner.progress.batch == 0)
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_interval(self.epoch)
            self._validate(self.epoch)
        self.runner.call_hook("after_train")

    def run_epoch(self) -> None:
        """Train one epoch, or the rest of a resumed one."""
        runner, progress = self.runner, self.runner.progress
        runner.call_hook("before_train_epoch")
        runner.model.train()
        set_position(self.dataloader, progress.epoch, progress.batch)
        for batch_idx, data_batch in enumerate(self.dataloader, start=progress.batch):
            self.run_iter(batch_idx, data_batch)
        progress.phase = Phase.EPOCH
        runner.call_hook("after_train_epoch")
        progress.finish_epoch()

    def run_iter(self, idx: int, data_batch: DataBatch) -> None:
        """Train one iteration.

        Args:
            idx: Index of the batch in its epoch, from 0.
            data_batch: The batch.
        """
        self._train(idx, data_batch)


@LOOPS.register_module()
class IterBasedTrainLoop(_TrainLoop):
    """Train for a number of iterations, repeating the data as needed; hooks are called as for a single epoch.

    Args:
        runner: Context of the run.
        dataloader: Data loader of this rank.
        max_iters: Number of iterations to train.
        val_begin: First iteration (from 1) after which a validation may run.
        val_interval: Number of iterations between validations; from `val_begin` on, the last iteration is always
            validated.
        dynamic_intervals: `(milestone, interval)` pairs; once the next iteration (from 1) reaches the milestone, the
            interval replaces `val_interval`.
    """

    by_epoch = False
    max_epochs = 1

    @checked
    def __init__(
        self,
        runner: RunContext,
        dataloader: DataLoader,
        max_iters: PositiveInt,
        val_begin: NonNegativeInt = 1,
        val_interval: PositiveInt = 1000,
        dynamic_intervals: Intervals = None,
    ) -> None:
        super().__init__(runner, dataloader, max_iters, val_begin, val_interval, dynamic_intervals)
        self.max_iters = self.limit

    def run(self) -> None:
        """Train until `max_iters` is reached or `stop_training` is set."""
        runner = self.runner
        runner.call_hook("before_train")
        self._catch_up(self.iter)
        runner.call_hook("before_train_epoch")
        self.dataloader_iterator = self._batches()
        while self.iter < self.max_iters and not self.stop_training:
            data_batch = next(self.dataloader_iterator)
            runner.model.train()
            self.run_iter(data_batch)
            self._decide_interval(self.iter)
            self._validate(self.iter)
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")

    def run_iter(self, data_batch: DataBatch) -> None:
        """Train one iteration.

        Args:
            data_batch: The batch.
        """
        self._train(self.iter, data_batch)

    @cached_property
    def dataloader_iterator(self) -> Iterator[Any]:
        """Batches without end, for a user-defined `run`."""
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        """Yield batches indefinitely; every pass over the data has its own order and augmentation."""
        progress, loader = self.runner.progress, self.dataloader
        if getattr(getattr(loader.batch_sampler, "sampler", None), "endless", False):
            set_position(loader, 0, progress.iter)
            yield from loader
            return
        while True:
            set_position(loader, progress.data_pass, progress.batch)
            yield from loader
            progress.finish_pass()


class _EvalLoop(BaseLoop):
    """Base class of the validation and test loops."""

    mode: str

    def __init__(
        self,
        runner: RunContext,
        dataloader: DataLoader | Loaders,
        evaluator: Evaluator | Sequence[Evaluator],
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader)
        self.evaluator = evaluator
        self.fp16 = fp16
        loaders = dataloader.loaders if isinstance(dataloader, Loaders) else [dataloader]
        evaluators = list(evaluator) if isinstance(evaluator, Sequence) else [evaluator]
        self._parts = list(zip(loaders, evaluators, strict=True))
        self._scorer = evaluators[0]  # evaluator of the current loader
        self._losses: dict[str, list[Tensor]] = {}  # of the current loader so far, by name
        for loader, one in self._parts:
            meta = getattr(loader.dataset, "metainfo", None)
            if meta is not None:
                one.dataset_meta = meta
        self._show(self._parts[0][0])

    def _show(self, loader: DataLoader) -> None:
        """Set the visualizer's metainfo to that of a loader's data set."""
        meta = getattr(loader.dataset, "metainfo", None)
        if meta is not None:
            self.runner.visualizer.dataset_meta = meta

    def _prefix(self, place: int) -> str:
        """Return the prefix of a loader's metric names: empty for the first loader, `val2/` for the second."""
        return f"{self.mode}{place + 1}/" if place else ""

    def names(self) -> list[str] | None:
        """Return the names of the metrics if they are known before the evaluation, else None."""
        known = [one.names() for _, one in self._parts]
        if None in known:
            return None
        return [self._prefix(i) + name for i, names in enumerate(known) for name in names or ()]

    def run(self) -> dict[str, Any]:
        """Evaluate all loaders once.

        Every rank evaluates the same model (with rank 0's buffers). The random state of the training is preserved.

        Returns:
            The metrics, the same on every rank.
        """
        runner, mode = self.runner, self.mode
        with rng.preserve_rng_state(runner.device) as before, torch.no_grad():
            runner.training_rng = before
            try:
                runner.call_hook(f"before_{mode}")
                runner.call_hook(f"before_{mode}_epoch")
                broadcast_buffers(runner.model)  # after hooks that average buffers or swap in averages
                runner.model.eval()
                metrics: dict[str, Any] = {}
                done = 0
                for place, (loader, evaluator) in enumerate(self._parts):
                    found = self._evaluate(loader, evaluator, done)
                    metrics |= {self._prefix(place) + name: value for name, value in found.items()}
                    done += len(loader)
                runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
                runner.call_hook(f"after_{mode}")
            finally:
                runner.training_rng = None
        return metrics

    def _evaluate(self, loader: DataLoader, evaluator: Evaluator, first: int) -> dict[str, Any]:
        """Evaluate one loader and return its metrics.

        Args:
            loader: Data loader of this rank.
            evaluator: Evaluator of the loader.
            first: Index of the loader's first batch, counted over all loaders.
        """
        if len(self._parts) > 1:
            self._show(loader)
        self._scorer, self._losses = evaluator, {}
        set_position(loader, 0, 0)
        for batch_idx, data_batch in enumerate(loader, start=first):
            self.run_iter(batch_idx, data_batch)
        losses, self._losses = self._losses, {}
        metrics = evaluator.evaluate(len(loader.dataset))
        return {**metrics, **self._mean(losses)}

    def run_iter(self, idx: int, data_batch: DataBatch) -> None:
        """Predict for one batch and pass the predictions to the evaluator.

        Args:
            idx: Index of the batch, from 0, counted over all loaders.
            data_batch: The batch.
        """
        runner, mode = self.runner, self.mode
        runner.call_hook(f"before_{mode}_iter", batch_idx=idx, data_batch=data_batch)
        dtype = torch.float16 if runner.device.type == "cuda" else torch.bfloat16
        try:
            with torch.autocast(runner.device.type, dtype=dtype, enabled=self.fp16):
                outputs = getattr(runner.model, f"{mode}_step")(data_batch)
        except Exception as error:
            _blame(error, f"in the {mode} step, batch {idx + 1}", data_batch)
            raise
        outputs = _take_losses(outputs, self._losses)
        self._scorer.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook(f"after_{mode}_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)

    def _mean(self, losses: dict[str, list[Tensor]]) -> dict[str, float]:
        """Return each loss averaged over all batches of all ranks, and their sum as `val_loss` or `test_loss`."""
        # Gathered by name: a rank whose shard is empty has no losses, but must take part in the collective call.
        mine = {name: (torch.stack(values).double().sum().item(), len(values)) for name, values in losses.items()}
        ranks = all_gather_object(mine)
        means = {}
        for name in {name: None for rank in ranks for name in rank}:
            sums, counts = zip(*(rank[name] for rank in ranks if name in rank), strict=True)
            means[name] = sum(sums) / sum(counts)
        return {**means, f"{self.mode}_loss": sum(means.values())} if means else {}


@LOOPS.register_module()
class ValLoop(_EvalLoop):
    """Validate the model on one or several data loaders.

    Args:
        runner: Context of the run.
        dataloader: Data loader of this rank, or several.
        evaluator: Evaluator of the predictions, or one per loader. Metric names of the second, third, ... loader are
            prefixed with `val2/`, `val3/`, ...
        fp16: Whether to predict under autocast: float16 on CUDA, bfloat16 elsewhere.
    """

    mode = "val"


@LOOPS.register_module()
class TestLoop(_EvalLoop):
    """Test the model on one or several data loaders.

    Args:
        runner: Context of the run.
        dataloader: Data loader of this rank, or several.
        evaluator: Evaluator of the predictions, or one per loader. Metric names of the second, third, ... loader are
            prefixed with `test2/`, `test3/`, ...
        fp16: Whether to predict under autocast: float16 on CUDA, bfloat16 elsewhere.
    """

    __test__ = False  # pytest must not collect it as a test case
    mode = "test"


def _take_losses(outputs: Sequence[T], losses: dict[str, list[Tensor]]) -> Sequence[T]:
    """Move a last output that holds only losses from the predictions to `losses`.

    Args:
        outputs: Outputs of a validation or test step.
        losses: Values by name, on their device; one scalar per batch is appended to each.

    Returns:
        The predictions.
    """
    # MMEngine's loops accept any output; only a detector's may end with its losses.
    last = outputs[-1] if isinstance(outputs, (list, tuple)) and outputs else None
    keys = getattr(last, "keys", None)
    if last is None or keys is None or set(keys()) != {"loss"}:
        return outputs
    found = last["loss"]
    for name, value in (found if isinstance(found, dict) else {"loss": found}).items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        losses.setdefault(name, []).append(torch.stack([part.detach().mean() for part in parts]).sum())
    return outputs[:-1]


def _blame(error: Exception, where: str, data_batch: DataBatch) -> None:
    """Add a note to an error: where it occurred, and for which samples."""
    error.add_note(f"{where}, samples {sample_ids(data_batch)}")
