"""Where a run stands: the only owner of epoch and iteration counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Phase(Enum):
    """What is counted at its end and may hold a save before that."""

    BETWEEN = "between"  # counts say what is finished
    ITER = "iter"  # the step of iteration ``iter`` is taken, not yet counted
    EPOCH = "epoch"  # all batches of epoch ``epoch`` are trained on, the epoch is not yet counted


@dataclass
class Progress:
    """Counts of what is finished.

    Args:
        epoch: Epochs (stays 0 in iteration-based training).
        iter: Iterations.
        data_pass: Passes through the training set that are finished; the epoch, in epoch-based training.
        batch: Batches of the running pass.
        validated: Value of ``iter`` at the last finished validation.
        phase: What the loop is in the middle of.
        last_log: Number of the last iteration after which the history was read for the log; the same on every rank.
    """

    epoch: int = 0
    iter: int = 0
    data_pass: int = 0
    batch: int = 0
    validated: int = 0
    phase: Phase = Phase.BETWEEN
    last_log: int = -1

    def finish_iter(self) -> None:
        """Count an iteration."""
        self.iter += 1
        self.batch += 1
        self.phase = Phase.BETWEEN

    def finish_pass(self) -> None:
        """Count a pass through the data."""
        self.data_pass += 1
        self.batch = 0

    def finish_epoch(self) -> None:
        """Count an epoch, which is one pass."""
        self.epoch += 1
        self.finish_pass()
        self.phase = Phase.BETWEEN

    def state_dict(self) -> dict[str, int]:
        """Where a resumed run has to go on: inside a hook of an iteration, that is after it."""
        in_iter, in_epoch = self.phase is Phase.ITER, self.phase is Phase.EPOCH
        return {
            "epoch": self.epoch + in_epoch,
            "iter": self.iter + in_iter,
            "round": self.data_pass + in_epoch,
            "batch": 0 if in_epoch else self.batch + in_iter,
            "validated": self.validated,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where ``state_dict`` said."""
        for name in ("epoch", "iter", "batch", "validated"):
            setattr(self, name, int(state[name]))
        self.data_pass = int(state["round"])
        self.phase = Phase.BETWEEN
