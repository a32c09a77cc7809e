"""The loops: what is done in which order, and when to validate. All else is hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from raydet3d.dist import all_gather_object, broadcast_buffers
from raydet3d.errors import InputError
from raydet3d.hooks.context import RunContext, StepModel
from raydet3d.registry import LOOPS
from raydet3d.runtime import rng
from raydet3d.runtime.evaluator import Evaluator
from raydet3d.runtime.loaders import Loaders, build_dataloader
from raydet3d.runtime.micro_batch import train_in_parts
from raydet3d.runtime.progress import Phase


def set_position(loader: DataLoader[Any], epoch: int, batches: int) -> None:
    """Say where the next pass over a loader begins; one whose batches are not stamped begins at its beginning."""
    stamped: Any = getattr(loader, "batch_sampler", None)
    if hasattr(stamped, "set_position"):
        stamped.set_position(epoch, batches)


def _is_count(value: Any) -> bool:
    """Whether this is a whole number above 0; 2.0 is one."""
    return not isinstance(value, bool) and isinstance(value, Real) and float(value).is_integer() and float(value) > 0


def _read_pairs(dynamic_intervals: Any) -> list[tuple[int, int]]:
    """(milestone, interval) pairs, tuples or lists (YAML has no tuples), in order."""
    pairs = []
    for pair in dynamic_intervals or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(map(_is_count, pair)):
            raise InputError(
                "train_cfg.dynamic_intervals must be a list of (milestone, interval) pairs of whole numbers above 0, "
                f"got {pair!r}"
            )
        pairs.append((int(pair[0]), int(pair[1])))
    return sorted(pairs)


class BaseLoop(ABC):
    """Base class of loops: `train_cfg`, `val_cfg` and `test_cfg` may name a registered subclass.

    Args:
        runner: The run.
        dataloader: A data loader, or its config.
    """

    def __init__(self, runner: RunContext, dataloader: Any) -> None:
        self._runner = runner
        self.dataloader = (
            build_dataloader(dataloader, seed=runner.seed) if isinstance(dataloader, Mapping) else dataloader
        )

    @property
    def runner(self) -> RunContext:
        """The run."""
        return self._runner

    @abstractmethod
    def run(self) -> object:
        """Run the loop."""


class _TrainLoop(BaseLoop):
    """Base class of the training loops.

    Args:
        runner: The run.
        dataloader: Batches of this rank.
        limit: Epochs or iterations to train.
        name: The config's word for it.
        val_begin: First epoch or iteration that may be followed by a validation.
        val_interval: Epochs or iterations from one validation to the next.
        dynamic_intervals: ``(milestone, interval)`` pairs: from the milestone on, another interval holds.
    """

    def __init__(
        self,
        runner: RunContext,
        dataloader: DataLoader[Any],
        limit: int,
        name: str,
        val_begin: int,
        val_interval: int,
        dynamic_intervals: Sequence[Sequence[int]] | None,
    ) -> None:
        if len(dataloader) == 0:
            raise InputError("train_dataloader gives no batch: fewer samples than batch_size, with drop_last=True?")
        for key, value in ((name, limit), ("val_interval", val_interval)):
            if not _is_count(value):
                raise InputError(f"train_cfg.{key} must be a whole number above 0, got {value!r}")
        super().__init__(runner, dataloader)
        self.limit = int(limit)
        if val_begin != 0 and not _is_count(val_begin):
            raise InputError(f"train_cfg.val_begin must be a whole number of at least 0, got {val_begin!r}")
        self.val_begin: int = int(val_begin)
        self.val_interval: int = int(val_interval)
        self.stop_training: bool = False
        pairs = _read_pairs(dynamic_intervals)
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
        """Finished iterations, which a ``run_iter`` of a user's own counts as MMEngine's does: ``self._iter += 1``."""
        return self.iter

    @_iter.setter
    def _iter(self, count: int) -> None:
        if count != self.iter + 1:
            raise InputError(f"run_iter ends one iteration at a time: _iter was {self.iter} and cannot become {count}")
        self.runner.progress.finish_iter()

    def _decide_interval(self, done: int) -> None:
        self.val_interval = self._intervals[bisect(self._milestones, done + 1) - 1]

    def _validate(self, done: int) -> None:
        """Validate, if it is time after so many epochs or iterations."""
        due = done >= self.val_begin and (done % self.val_interval == 0 or done == self.limit)
        if self.runner.val_loop is not None and due:
            self.runner.val_loop.run()
            self.runner.progress.validated = self.iter

    def _catch_up(self, done: int, *, between: bool = True) -> None:
        """Go on as after ``done``: with the interval of that point, and the validation that a stop has cut off."""
        if done > 0:
            self._decide_interval(done)
            if between and self.runner.progress.validated < self.iter:  # a checkpoint comes before its validation
                self._validate(done)

    def _train(self, batch_idx: int, data_batch: Any) -> None:
        """One iteration."""
        call = self.runner.call_hook
        call("before_train_iter", batch_idx=batch_idx, data_batch=data_batch)
        try:
            outputs = self._step(data_batch)
        except Exception as error:
            _blame(error, f"in the training step, epoch {self.epoch + 1}, iteration {self.iter + 1}", data_batch)
            raise
        call("after_train_iter", batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)
        self.runner.progress.finish_iter()

    def _step(self, data_batch: Any) -> dict[str, Any]:
        """The training step; in parts, where the run is laid out for more or fewer ranks than are there."""
        runner = self.runner
        weigh = getattr(self.dataloader.batch_sampler, "micro_batch_weights", None)
        weights = [1.0] if weigh is None else weigh(runner.progress.batch)
        if weights == [1.0]:
            return cast("StepModel", runner.model).train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        return train_in_parts(runner.model, data_batch, runner.optim_wrapper, weights)


@LOOPS.register_module()
class EpochBasedTrainLoop(_TrainLoop):
    """Train a number of epochs; validate after some of them.

    Args:
        runner: The run.
        dataloader: Batches of this rank.
        max_epochs: Epochs to train.
        val_begin: First epoch (from 1) that may be followed by a validation.
        val_interval: Epochs from one validation to the next; the last epoch is always validated.
        dynamic_intervals: ``(milestone, interval)`` pairs: once the next epoch is the milestone, another interval
            holds.
    """

    by_epoch = True

    def __init__(
        self,
        runner: RunContext,
        dataloader: DataLoader[Any],
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, max_epochs, "max_epochs", val_begin, val_interval, dynamic_intervals)
        self.max_epochs = self.limit
        self.max_iters = self.max_epochs * len(dataloader)

    def run(self) -> None:
        """Train to the end, or until ``stop_training``."""
        self.runner.call_hook("before_train")
        self._catch_up(self.epoch, between=self.runner.progress.batch == 0)
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_interval(self.epoch)
            self._validate(self.epoch)
        self.runner.call_hook("after_train")

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it."""
        runner, progress = self.runner, self.runner.progress
        runner.call_hook("before_train_epoch")
        runner.model.train()
        set_position(self.dataloader, progress.epoch, progress.batch)
        for batch_idx, data_batch in enumerate(self.dataloader, start=progress.batch):
            self.run_iter(batch_idx, data_batch)
        progress.phase = Phase.EPOCH
        runner.call_hook("after_train_epoch")
        progress.finish_epoch()

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train one iteration.

        Args:
            idx: The batch's number in its epoch.
            data_batch: The batch.
        """
        self._train(idx, data_batch)


@LOOPS.register_module()
class IterBasedTrainLoop(_TrainLoop):
    """Train a number of iterations, over the data again and again; hooks see one single epoch.

    Args:
        runner: The run.
        dataloader: Batches of this rank.
        max_iters: Iterations to train.
        val_begin: First iteration (from 1) that may be followed by a validation.
        val_interval: Iterations from one validation to the next; the last is always validated.
        dynamic_intervals: ``(milestone, interval)`` pairs: once the next iteration is the milestone, another interval
            holds.
    """

    by_epoch = False
    max_epochs = 1

    def __init__(
        self,
        runner: RunContext,
        dataloader: DataLoader[Any],
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, max_iters, "max_iters", val_begin, val_interval, dynamic_intervals)
        self.max_iters = self.limit

    def run(self) -> None:
        """Train to the end, or until ``stop_training``."""
        runner = self.runner
        runner.call_hook("before_train")
        self._catch_up(self.iter)
        runner.call_hook("before_train_epoch")
        batches = self._batches()
        while self.iter < self.max_iters and not self.stop_training:
            data_batch = next(batches)
            runner.model.train()
            self.run_iter(data_batch)
            self._decide_interval(self.iter)
            self._validate(self.iter)
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")

    def run_iter(self, data_batch: Any) -> None:
        """Train one iteration.

        Args:
            data_batch: The batch.
        """
        self._train(self.iter, data_batch)

    def _batches(self) -> Iterator[Any]:
        """Batches without end: pass after pass, each with its own order and augmentation."""
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
        dataloader: DataLoader[Any] | Loaders,
        evaluator: Evaluator | Sequence[Evaluator],
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader)
        self.evaluator = evaluator
        self.fp16 = fp16
        loaders = dataloader.loaders if isinstance(dataloader, Loaders) else [dataloader]
        evaluators = list(evaluator) if isinstance(evaluator, Sequence) else [evaluator]
        self._parts = list(zip(loaders, evaluators, strict=True))
        self._scorer = evaluators[0]  # of the loader that is gone through
        self._losses: dict[str, list[torch.Tensor]] = {}  # that it has given so far
        for loader, one in self._parts:
            meta = getattr(loader.dataset, "metainfo", None)
            if meta is not None:
                one.dataset_meta = meta
        self._show(self._parts[0][0])

    def _show(self, loader: DataLoader[Any]) -> None:
        """Let the visualizer know whose pictures come."""
        meta = getattr(loader.dataset, "metainfo", None)
        if meta is not None:
            self.runner.visualizer.dataset_meta = meta

    def _prefix(self, place: int) -> str:
        """What stands before the names of a loader's metrics: nothing for the first, ``val2/`` for the second."""
        return f"{self.mode}{place + 1}/" if place else ""

    def names(self) -> list[str] | None:
        """Names of the metrics, where they are known before anything is evaluated."""
        known = [one.names() for _, one in self._parts]
        if None in known:
            return None
        return [self._prefix(i) + name for i, names in enumerate(known) for name in names or ()]

    def run(self) -> dict[str, Any]:
        """Go through the data once.

        Every rank evaluates the same model (rank 0's buffers), and training's random state is left as it was.

        Returns:
            The metrics, the same on every rank.
        """
        runner, mode = self.runner, self.mode
        with rng.preserve_rng_state(runner.device) as before, torch.no_grad():
            runner.training_rng = before
            try:
                runner.call_hook(f"before_{mode}")
                runner.call_hook(f"before_{mode}_epoch")
                broadcast_buffers(runner.model)  # after hooks that average buffers, or put an average in place
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

    def _evaluate(self, loader: DataLoader[Any], evaluator: Evaluator, first: int) -> dict[str, Any]:
        """The metrics of one loader, whose first batch has this number."""
        if len(self._parts) > 1:
            self._show(loader)
        self._scorer, self._losses = evaluator, {}
        set_position(loader, 0, 0)
        for batch_idx, data_batch in enumerate(loader, start=first):
            self.run_iter(batch_idx, data_batch)
        losses, self._losses = self._losses, {}
        metrics = evaluator.evaluate(len(loader.dataset))  # type: ignore[arg-type]
        return {**metrics, **self._mean(losses)}

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predict for one batch, and hand the predictions to the evaluator.

        Args:
            idx: The batch's number.
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

    def _mean(self, losses: dict[str, list[torch.Tensor]]) -> dict[str, float]:
        """Losses over all batches of all ranks, and their sum under ``val_loss``."""
        # By name, since a rank whose share of the data is empty has none; it must take part all the same.
        mine = {name: (torch.stack(values).double().sum().item(), len(values)) for name, values in losses.items()}
        ranks = all_gather_object(mine)
        means = {}
        for name in {name: None for rank in ranks for name in rank}:
            sums, counts = zip(*(rank[name] for rank in ranks if name in rank), strict=True)
            means[name] = sum(sums) / sum(counts)
        return {**means, f"{self.mode}_loss": sum(means.values())} if means else {}


@LOOPS.register_module()
class ValLoop(_EvalLoop):
    """Validation.

    Args:
        runner: The run.
        dataloader: Batches of this rank; or several loaders.
        evaluator: Scores the predictions; one for each of several loaders. What the first one gives keeps its names,
            the others' begin with ``val2/``, ``val3/``, ...
        fp16: Predict under autocast.
    """

    mode = "val"


@LOOPS.register_module()
class TestLoop(_EvalLoop):
    """Testing.

    Args:
        runner: The run.
        dataloader: Batches of this rank; or several loaders.
        evaluator: Scores the predictions; one for each of several loaders. What the first one gives keeps its names,
            the others' begin with ``test2/``, ``test3/``, ...
        fp16: Predict under autocast.
    """

    __test__ = False  # it is no test case of pytest's
    mode = "test"


def _take_losses(outputs: Sequence[Any], losses: dict[str, list[torch.Tensor]]) -> Sequence[Any]:
    """Take a last output that holds nothing but losses off the predictions."""
    # MMEngine's loops accept any output; only that of a detector ends in losses.
    last = outputs[-1] if isinstance(outputs, (list, tuple)) and outputs else None
    keys = getattr(last, "keys", None)
    if last is None or keys is None or set(keys()) != {"loss"}:
        return outputs
    found = last["loss"]
    for name, value in (found if isinstance(found, dict) else {"loss": found}).items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        losses.setdefault(name, []).append(torch.stack([part.detach().mean() for part in parts]).sum())
    return outputs[:-1]


def _blame(error: Exception, where: str, data_batch: Any) -> None:
    """Note on an error where it came up, and for which samples."""
    error.add_note(f"{where}, samples {sample_ids(data_batch)}")


def sample_ids(data_batch: Any) -> list[Any]:
    """The ids of a batch's samples, where they have any."""
    samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
    ids = [getattr(sample, "sample_idx", None) for sample in samples or []]
    return [number for number in ids if number is not None]
