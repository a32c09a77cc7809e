"""`assemble`: from a config and what the launcher decides to a `Runner`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raydet3d.errors import InputError
from raydet3d.hooks.base import Hook
from raydet3d.registry import RUNNERS
from raydet3d.runtime.build import LaunchArgs
from raydet3d.runtime.runner import Runner


def assemble(
    cfg: Mapping[str, Any],
    *,
    device: torch.device | str | None = None,
    extra_hooks: Sequence[Hook] = (),
    timestamp: str | None = None,
    resume: bool | str = False,
    run: str = "",
    retry: bool = False,
    batch_workers: int | None = None,
) -> Runner:
    """Make a run, of the class that the config's `runner_type` names, from its config.

    Works in a single process and in one of a process group that exists. The order in which a run is made is that of
    `RunParts.__init__`.

    Args:
        cfg: The config.
        device: See `LaunchArgs`, as are the rest.
        extra_hooks: Hooks of the launcher.
        timestamp: Name of this start.
        resume: What to resume from.
        run: Which run of the work dir to resume.
        retry: Resume from what this start has saved.
        batch_workers: Number of ranks whose batches make one iteration.
    """
    kind = RUNNERS.get(cfg.get("runner_type") or "Runner")
    if not (isinstance(kind, type) and issubclass(kind, Runner)):
        raise InputError(f"runner_type: {kind!r} is not a subclass of raydet3d.runtime.Runner")
    launch = LaunchArgs(
        device=device,
        extra_hooks=extra_hooks,
        timestamp=timestamp,
        resume=resume,
        run=run,
        retry=retry,
        batch_workers=batch_workers,
    )
    with launch.active():
        return kind.from_cfg(cfg)
