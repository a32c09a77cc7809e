"""Training progress: the only place that stores epoch and iteration counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Unit of work that is finished but not yet counted; a checkpoint may be saved in any phase."""

    BETWEEN = "between"  # all finished work is counted
    ITER = "iter"  # the step of iteration `iter` is finished, but not yet counted
    EPOCH = "epoch"  # all batches of epoch `epoch` are finished, but the epoch is not yet counted


@dataclass
class Progress:
    """Counts of finished epochs, iterations and passes over the data.

    Args:
        epoch: Finished epochs (always 0 in iteration-based training).
        iter: Finished iterations.
        data_pass: Finished passes over the training set; equal to `epoch` in epoch-based training.
        batch: Finished batches of the current pass.
        validated: Value of `iter` at the last finished validation.
        phase: Unit of work that is finished but not yet counted.
        last_log: Last iteration (from 1) after which the history was read for the log; the same on every rank.
    """

    epoch: int = 0
    iter: int = 0
    data_pass: int = 0
    batch: int = 0
    validated: int = 0
    phase: Phase = Phase.BETWEEN
    last_log: int = -1

    def finish_iter(self) -> None:
        """Count an iteration as finished."""
        self.iter += 1
        self.batch += 1
        self.phase = Phase.BETWEEN

    def finish_pass(self) -> None:
        """Count a pass over the data as finished."""
        self.data_pass += 1
        self.batch = 0

    def finish_epoch(self) -> None:
        """Count an epoch, which is one pass over the data, as finished."""
        self.epoch += 1
        self.finish_pass()
        self.phase = Phase.BETWEEN

    def state_dict(self) -> dict[str, int]:
        """Return the position at which a resumed run continues.

        Includes an iteration or epoch whose hooks are still running: in `after_train_iter`, the position is after it.
        """
        in_iter, in_epoch = self.phase is Phase.ITER, self.phase is Phase.EPOCH
        return {
            "epoch": self.epoch + in_epoch,
            "iter": self.iter + in_iter,
            "round": self.data_pass + in_epoch,
            "batch": 0 if in_epoch else self.batch + in_iter,
            "validated": self.validated,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the position of a `state_dict`."""
        for name in ("epoch", "iter", "batch", "validated"):
            setattr(self, name, int(state[name]))
        self.data_pass = int(state["round"])
        self.phase = Phase.BETWEEN
