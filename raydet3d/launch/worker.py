"""Run one worker: make a Runner from a RunSpec, train or test, return the result."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from raydet3d.config import Config
from raydet3d.files import locked
from raydet3d.launch.malloc import keep_freed_memory
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.signals import Stopped
from raydet3d.run_status import RunResult

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
    """Train or test.

    Args:
        spec: The run.
        device: Where it runs; None lets the runtime choose.
        hooks: Hooks of the launcher for a training, besides the config's.
        asked: Says why a training is to stop, or None; asked about twice a second. (A test has nothing to save.)
        is_main: Whether this is rank 0.

    Returns:
        The run's result: metrics, best checkpoint, folders (see `Runner.train`). Of a run that was asked to stop:
        `stopped` (why), `iter` and `checkpoint`. Of a test: `metrics`, `headline` and `log_dir`.
    """
    with ExitStack() as stack:
        if spec.lock_file is not None and is_main:
            busy = f"{Path(spec.lock_file).parent}: another run is active there"
            stack.enter_context(locked(Path(spec.lock_file), timeout_s=LOCK_TIMEOUT_S, busy=busy))
        enter_process(spec.cwd, spec.modules, spec.threads)
        cfg = spec.config()
        return _test(spec, cfg, device) if spec.task == "test" else _train(spec, cfg, device, hooks, asked)


def enter_process(cwd: str, modules: Sequence[str], threads: int | None) -> None:
    """Set up a process for its work.

    Args:
        cwd: Folder that relative paths start from, if it exists here.
        modules: Folders of the user's modules.
        threads: Torch threads; None leaves torch's default.
    """
    import torch  # here, not above: commands name what is wrong before it is loaded

    if os.path.isdir(cwd):
        os.chdir(cwd)
    sys.path[:0] = [folder for folder in modules if folder not in sys.path and os.path.isdir(folder)]
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()


def _test(spec: RunSpec, cfg: Config, device: torch.device | str | None) -> RunResult:
    from raydet3d.launch.hang_watchdog import HangWatchdogHook
    from raydet3d.runtime.assemble import assemble
    from raydet3d.runtime.tta_runner import build_runner_with_tta

    watchdog = HangWatchdogHook(spec.hang_timeout_s) if spec.hang_timeout_s else None
    build = build_runner_with_tta if spec.tta else assemble
    runner = build(cfg, device=device, extra_hooks=[watchdog] if watchdog else [], timestamp=spec.run_id)
    try:
        metrics = runner.test()
    finally:
        runner.close()
        if watchdog is not None:
            watchdog.close()
    scalars = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    return {"metrics": scalars, "headline": runner.headline(metrics), "log_dir": str(runner.log_dir)}


def _train(
    spec: RunSpec,
    cfg: Config,
    device: torch.device | str | None,
    hooks: Sequence[Hook],
    asked: Callable[[], str | None] | None,
) -> RunResult:
    from raydet3d.dist import require_process_group
    from raydet3d.launch.launcher_hooks import LauncherHooks
    from raydet3d.runtime.assemble import assemble

    own = LauncherHooks(asked, why=spec.why, straggler_ratio=spec.straggler_ratio, hang_timeout_s=spec.hang_timeout_s)
    runner = assemble(
        cfg,
        device=device,
        extra_hooks=[*hooks, *own.all()],
        timestamp=spec.run_id,
        resume=spec.resume,
        run=spec.run,
        retry=spec.retry,
        batch_workers=spec.batch_workers,
    )
    try:
        with require_process_group():
            result = runner.train()
            result["last_is_kept"] = own.restart_log.finish(runner, result)
            return result
    except Stopped as stopped:
        runner.logger.info("%s", stopped)
        runner.close()
        return {"stopped": stopped.reason, "iter": stopped.iteration, "checkpoint": stopped.checkpoint}
    except BaseException:
        runner.close()  # the process may be used for another run
        raise
    finally:
        own.close()


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
