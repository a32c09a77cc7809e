"""PBT exploit and explore: copy a top trial's checkpoint, perturb its hyperparameters."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.sweep.trial_config import digest
from raydet3d.sweep.trial_queue import TrialQueue
from raydet3d.sweep.trial_spec import TrialSpec


def exploit(queue: TrialQueue, trial_id: str, donor_id: str, pointer: dict[str, Any] | None) -> dict[str, TrialSpec]:
    """Let a trial continue from another's checkpoint with a perturbed setting.

    The checkpoint is pinned before this returns: the donor trains on, and its own one may be deleted.

    Args:
        queue: The sweep's trials.
        trial_id: The bad one.
        donor_id: The good one.
        pointer: Names the good one's checkpoint; where that is gone, its newest one is taken.

    Returns:
        The trial's new Tune config.
    """
    trial, donor = queue.trials[trial_id], queue.trials[donor_id]
    scheduler, space = queue.sweep.scheduler, queue.sweep.space
    generation = trial.generation + 1
    pointed = Path((pointer or {}).get("path") or queue.store.folder(donor_id) / "none.pth")
    pinned = queue.retention().pin(pointed, f"{trial_id}-gen{generation}.pth")
    if pinned is None:
        get_logger().warning("trial %s: no checkpoint of trial %s is there to go on from", trial_id, donor_id)
        return {"trial": queue.spec_of(trial)}
    rng = random.Random(f"{queue.sweep.search.seed}/{trial_id}/{generation}")
    own = {key: value for key, value in queue.filled(donor.setting).items() if key in scheduler.mutate}
    setting = space.perturb({**own, **donor.setting}, scheduler.mutate, rng, resample=scheduler.options["resample"])
    try:
        queue.builder.build(setting)
    except InputError:
        setting = dict(donor.setting)
    at = (pointer or {}).get("at", donor.at)
    queue.retention().unpin(trial.starts_from)
    trial.exploits.append(
        {
            "at": at,
            "donor": donor_id,
            "before": dict(trial.setting),
            "donors": dict(donor.setting),
            "time": time.time(),
        }
    )
    trial.setting = setting
    trial.digest = digest(queue.config_of(trial))
    trial.generation, trial.starts_from = generation, str(pinned)
    queue.store.save(trial)
    return {"trial": queue.spec_of(trial)}
