"""Steps left out because a loss or gradient was not finite: found at log points, with the samples at fault."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydet3d.runtime.runner import Runner


class BadSteps:
    """Remembers which samples each iteration since the last log point saw, and reports the steps that were left out."""

    def __init__(self) -> None:
        self._seen: dict[int, list[Any]] = {}

    def note(self, iteration: int, data_batch: Any) -> None:
        """Keep the ids of a batch's samples.

        Args:
            iteration: The iteration, from 1.
            data_batch: Its batch.
        """
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
        self._seen[iteration] = [getattr(sample, "sample_idx", None) for sample in samples or ()]

    def report(self, runner: Runner) -> None:
        """Say in one line which steps were left out since the last report, if any. Waits for the device."""
        read = getattr(runner.optim_wrapper, "read_bad_steps", None)
        count, first = read() if read is not None else (0, -1)
        if count:
            # The gradients are everybody's; whose loss it was, each rank knows of its own.
            series = runner.message_hub.log_scalars.get("train/loss")  # a model of several optimizers may have none
            losses = [] if series is None else series.data[-len(self._seen) :]
            mine = any(not math.isfinite(loss) for loss in losses)
            loss = "the loss of this rank was not finite" if mine else "the loss was finite here, a gradient was not"
            ids = [number for number in self._seen.get(first, []) if number is not None]
            runner.logger.log(
                40 if mine else 30,
                "%d of the last %d steps left out, weights untouched: first at iteration %d (rank %d, samples %s); %s",
                count,
                len(self._seen),
                first,
                runner.rank,
                ids or "without ids",
                loss,
            )
        self._seen.clear()
