"""What every training process does, whoever started it: make a Runner from plain data, train, hand back the result."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raydet3d.config import Config, Origin
from raydet3d.launch.malloc import keep_freed_memory
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.signals import Stopped

if TYPE_CHECKING:
    import torch

    from raydet3d.hooks.base import Hook


def run_worker(
    plan: RunSpec,
    *,
    device: torch.device | str | None = None,
    hooks: Sequence[Hook] = (),
    asked: Callable[[], str | None] | None = None,
) -> dict[str, Any]:
    """Train.

    Args:
        plan: The run.
        device: Where to train; None lets the runtime choose.
        hooks: Hooks of the launcher, besides the config's.
        asked: Says why the run is to stop, or None; asked about twice a second.

    Returns:
        The run's result: metrics, best checkpoint, folders (see ``Runner.train``). Of a run that was asked to stop:
        ``stopped`` (why), ``iter`` and ``checkpoint``.
    """
    import torch  # here, not above: the doors name what is wrong before it is loaded

    from raydet3d.dist import require_process_group
    from raydet3d.launch.hang_watchdog import HangWatchdogHook
    from raydet3d.launch.rank_sync import RankSyncHook, StepTimer
    from raydet3d.launch.restart_log import RestartLogHook
    from raydet3d.runtime.build import assemble

    if os.path.isdir(plan.cwd):
        os.chdir(plan.cwd)
    sys.path[:0] = [folder for folder in plan.modules if folder not in sys.path and os.path.isdir(folder)]
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    keep_freed_memory()
    cfg = Config(plan.cfg, filename=plan.filename, origin=Origin.from_dict(plan.origin))
    cfg.import_custom_modules()
    starts, pace = RestartLogHook(why=plan.why), StepTimer()
    hang = HangWatchdogHook(plan.hang_timeout_s) if plan.hang_timeout_s else None
    watch = RankSyncHook(asked or (lambda: None), pace, ratio=plan.straggler_ratio)
    runner = assemble(
        cfg,
        device=device,
        extra_hooks=[*hooks, starts, pace, watch, *([hang] if hang else [])],
        timestamp=plan.run_id,
        resume=plan.resume,
        run=plan.run,
        retry=plan.retry,
        batch_workers=plan.slots,
    )
    try:
        with require_process_group():
            result = runner.train()
            starts.finish(runner, result)
    except Stopped as stopped:
        runner.logger.info("%s", stopped)
        result = {"stopped": stopped.reason, "iter": stopped.iteration, "checkpoint": stopped.checkpoint}
        runner.close()
    finally:
        starts.close()
        if hang is not None:
            hang.close()
    return result


def quiet_file_loggers(folder: str) -> None:
    """Silence the loggers of a package that names some after their file, out of its own log settings' reach.

    Args:
        folder: The package's. (Ray's prints every metric of a report.)
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(folder):
            logging.getLogger(name).setLevel(logging.WARNING)


def is_torchrun() -> bool:
    """Whether torchrun (or a launcher with its variables) started this process as one rank of several."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))


def join_torchrun(dist_cfg: Mapping[str, Any] | None = None) -> torch.device:
    """Join the process group that torchrun describes.

    A rank that sees one GPU only takes that one, whatever its number on the machine.

    Args:
        dist_cfg: ``env_cfg.dist_cfg`` of the config.

    Returns:
        This rank's device.
    """
    import torch
    import torch.distributed as torch_dist

    from raydet3d.dist import group_options

    cuda = torch.cuda.is_available()
    number = int(os.environ["LOCAL_RANK"]) % max(torch.cuda.device_count(), 1)
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch_dist.init_process_group(**group_options(dist_cfg, cuda=cuda))
    return device
