"""The parts of a run that are made when they are first asked for, and what hooks ask about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydet3d import dist
from raydet3d.optim import Schedule
from raydet3d.runtime.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Makers:
    """How the parts are made that a run may not need: each is called once, at first use.

    ``introduce`` is called once as well, when all parts that a run needs are made: it says what runs. So is
    ``finish_model``, when the weights to begin with are in place.
    """

    train_loop: Callable[[Any], Any]
    val_loop: Callable[[Any], Any]
    test_loop: Callable[[Any], Any]
    optim_wrapper: Callable[[Any], Any]
    param_schedulers: Callable[[Any], Any]
    introduce: Callable[[Any], None]
    finish_model: Callable[[Any], None]


class Parts:
    """Loops, loaders, optimizer and schedules: a run that only tests makes none of what training needs.

    Args:
        makers: Make them.
    """

    def __init__(self, makers: Makers) -> None:
        self._makers = makers
        self.progress = Progress()

    # -- parts made at first use --------------------------------------------------------------------------------

    @cached_property
    def train_loop(self) -> Any:
        """The training loop with its loader."""
        return self._makers.train_loop(self)

    @cached_property
    def val_loop(self) -> Any:
        """The validation loop with its loader and evaluator; None where the config has none."""
        return self._makers.val_loop(self)

    @cached_property
    def test_loop(self) -> Any:
        """The test loop with its loader and evaluator; None where the config has none."""
        return self._makers.test_loop(self)

    @cached_property
    def optim_wrapper(self) -> Any:
        """The optimizer in its wrapper."""
        return self._makers.optim_wrapper(self)

    @cached_property
    def param_schedulers(self) -> Any:
        """The schedulers of learning rate and momentum, in the config's order."""
        return self._makers.param_schedulers(self)

    @property
    def schedule(self) -> Schedule:
        """All schedulers of the run, advanced together."""
        return Schedule(self.param_schedulers)

    # -- what hooks ask -----------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """This process's rank."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return dist.get_world_size()

    @property
    def distributed(self) -> bool:
        """Whether there are several processes."""
        return self.world_size > 1

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.progress.epoch

    @property
    def iter(self) -> int:
        """Finished iterations."""
        return self.progress.iter

    @property
    def max_epochs(self) -> int | None:
        """Epochs to train; None where nothing trains, or the loop does not say."""
        return getattr(vars(self).get("train_loop"), "max_epochs", None)

    @property
    def max_iters(self) -> int | None:
        """Iterations to train; None where nothing trains, or the loop does not say."""
        return getattr(vars(self).get("train_loop"), "max_iters", None)

    @property
    def is_training(self) -> bool:
        """Whether this run trains; false for a validation or a test on its own."""
        return "train_loop" in vars(self)

    @property
    def val_interval(self) -> int:
        """Epochs or iterations from one validation to the next, as it holds now."""
        return int(self.train_loop.val_interval)

    @property
    def val_begin(self) -> int:
        """First epoch or iteration that may be followed by a validation."""
        return int(self.train_loop.val_begin)

    @property
    def train_dataloader(self) -> Any:
        """Batches for training."""
        return self.train_loop.dataloader

    @property
    def val_dataloader(self) -> Any:
        """Batches for validation; None where the config has none."""
        return getattr(self.val_loop, "dataloader", None)

    @property
    def test_dataloader(self) -> Any:
        """Batches for testing; None where the config has none."""
        return getattr(self.test_loop, "dataloader", None)

    @property
    def val_evaluator(self) -> Any:
        """What scores a validation (a list of them for several loaders); None where the config has none."""
        return getattr(self.val_loop, "evaluator", None)

    @property
    def test_evaluator(self) -> Any:
        """What scores a test (a list of them for several loaders); None where the config has none."""
        return getattr(self.test_loop, "evaluator", None)
