"""HyperBand, loaded where a sweep names it; after a stop, its brackets begin again with the trials that are left."""

from __future__ import annotations

from pathlib import Path

from ray.tune.schedulers import HyperBandScheduler

from raydet3d.sweep import spec
from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_schedulers import common_options


def make_scheduler(queue: TrialQueue, scratch: Path) -> HyperBandScheduler:
    """Make the scheduler; it needs no files of its own."""
    options = queue.sweep.scheduler
    assert isinstance(options, spec.HyperBand)
    max_t = int(options.max_t or queue.longest)
    return HyperBandScheduler(**common_options(queue), max_t=max_t, reduction_factor=options.reduction_factor)
