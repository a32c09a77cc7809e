"""What a population's bad trial becomes: a copy of a good one's weights, with a setting near to the good one's."""

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


def exploit(program: TrialQueue, trial_id: str, donor_id: str, pointer: dict[str, Any] | None) -> dict[str, TrialSpec]:
    """Let a trial go on from another's checkpoint.

    The checkpoint is pinned before this returns: the donor trains on, and drops it when it pleases.

    Args:
        program: The sweep's trials.
        trial_id: The bad one.
        donor_id: The good one.
        pointer: Names the good one's checkpoint; where that is gone, its newest one is taken.

    Returns:
        The trial's new Tune config.
    """
    trial, donor = program.trials[trial_id], program.trials[donor_id]
    scheduler, space = program.sweep.scheduler, program.sweep.space
    generation = trial.generation + 1
    pointed = Path((pointer or {}).get("path") or program.ledger.folder(donor_id) / "none.pth")
    pinned = program.keeper().pin(pointed, f"{trial_id}-gen{generation}.pth")
    if pinned is None:
        get_logger().warning("trial %s: no checkpoint of trial %s is there to go on from", trial_id, donor_id)
        return {"trial": program.task_of(trial)}
    rng = random.Random(f"{program.sweep.search.seed}/{trial_id}/{generation}")
    own = {key: value for key, value in program.filled(donor.setting).items() if key in scheduler.mutate}
    setting = space.perturb({**own, **donor.setting}, scheduler.mutate, rng, resample=scheduler.options["resample"])
    try:
        program.builder.build(setting)
    except InputError:
        setting = dict(donor.setting)
    at = (pointer or {}).get("at", donor.at)
    program.keeper().unpin(trial.starts_from)
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
    trial.digest = digest(program.config_of(trial))
    trial.generation, trial.starts_from = generation, str(pinned)
    program.ledger.save(trial)
    return {"trial": program.task_of(trial)}
