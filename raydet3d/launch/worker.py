"""Run one worker: make a Runner from a RunSpec, train, return the result."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from raydet3d.config import Config
from raydet3d.files import locked
from raydet3d.launch.malloc import keep_freed_memory
from raydet3d.launch.run_spec import RunResult, RunSpec
from raydet3d.launch.signals import Stopped

if TYPE_CHECKING:
    import torch

    from raydet3d.hooks.base import Hook

LOCK_TIMEOUT_S = 120.0  # processes of a killed run have ended by then


def run_worker(
    spec: RunSpec,
    *,
    device: torch.device | str | None = None,
    hooks: Sequence[Hook] = (),
    asked: Callable[[], str | None] | None = None,
    is_main: bool = True,
) -> RunResult:
    """Train.

    Args:
        spec: The run.
        device: Where to train; None lets the runtime choose.
        hooks: Hooks of the launcher, besides the config's.
        asked: Says why the run is to stop, or None; asked about twice a second.
        is_main: Whether this is rank 0.

    Returns:
        The run's result: metrics, best checkpoint, folders (see `Runner.train`). Of a run that was asked to stop:
        `stopped` (why), `iter` and `checkpoint`.
    """
    with ExitStack() as stack:
        if spec.lock_file is not None and is_main:
            busy = f"{Path(spec.lock_file).parent}: another run is active there"
            stack.enter_context(locked(Path(spec.lock_file), timeout_s=LOCK_TIMEOUT_S, busy=busy))
        return _run(spec, device, hooks, asked)


def _run(
    spec: RunSpec, device: torch.device | str | None, hooks: Sequence[Hook], asked: Callable[[], str | None] | None
) -> RunResult:
    import torch  # here, not above: commands name what is wrong before it is loaded

    from raydet3d.dist import require_process_group
    from raydet3d.launch.hang_watchdog import HangWatchdogHook
    from raydet3d.launch.rank_sync import RankSyncHook, StepTimer
    from raydet3d.launch.restart_log import RestartLogHook
    from raydet3d.runtime.assemble import assemble

    if os.path.isdir(spec.cwd):
        os.chdir(spec.cwd)
    sys.path[:0] = [folder for folder in spec.modules if folder not in sys.path and os.path.isdir(folder)]
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    keep_freed_memory()
    cfg = Config(spec.cfg, filename=spec.filename, origin=spec.origin)
    cfg.import_custom_modules()
    restart_log, timer = RestartLogHook(why=spec.why), StepTimer()
    watchdog = HangWatchdogHook(spec.hang_timeout_s) if spec.hang_timeout_s else None
    rank_sync = RankSyncHook(asked or (lambda: None), timer, ratio=spec.straggler_ratio)
    runner = assemble(
        cfg,
        device=device,
        extra_hooks=[*hooks, restart_log, timer, rank_sync, *([watchdog] if watchdog else [])],
        timestamp=spec.run_id,
        resume=spec.resume,
        run=spec.run,
        retry=spec.retry,
        batch_workers=spec.batch_workers,
    )
    try:
        with require_process_group():
            result = cast("RunResult", runner.train())
            result["last_is_kept"] = restart_log.finish(runner, result)
            return result
    except Stopped as stopped:
        runner.logger.info("%s", stopped)
        runner.close()
        return {"stopped": stopped.reason, "iter": stopped.iteration, "checkpoint": stopped.checkpoint}
    except BaseException:
        runner.close()  # the process may be used for another run
        raise
    finally:
        restart_log.close()
        if watchdog is not None:
            watchdog.close()


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
