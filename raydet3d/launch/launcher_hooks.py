"""Hooks that the launcher adds to those of the config, in every training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raydet3d.launch.hang_watchdog import HangWatchdogHook
from raydet3d.launch.rank_sync import RankSyncHook, StepTimer
from raydet3d.launch.restart_log import RestartLogHook

if TYPE_CHECKING:
    from raydet3d.hooks.base import Hook
    from raydet3d.launch.ray_options import RayOptions


class LauncherHooks:
    """The launcher's hooks of a training: log of the starts, sync of the ranks, hang watchdog.

    Args:
        asked: Returns the reason to stop, or None.
        why: Why this start was made, where it was not the user.
        straggler_ratio: See `RankSyncHook`.
        hang_timeout_s: See `HangWatchdogHook`; 0 for none.
    """

    def __init__(
        self,
        asked: Callable[[], str | None] | None = None,
        *,
        why: str = "",
        straggler_ratio: float = 1.5,
        hang_timeout_s: float = 0,
    ) -> None:
        self.restart_log = RestartLogHook(why=why)
        self._timer = StepTimer()
        self._rank_sync = RankSyncHook(asked or (lambda: None), self._timer, ratio=straggler_ratio)
        self._watchdog = HangWatchdogHook(hang_timeout_s) if hang_timeout_s else None

    def all(self) -> list[Hook]:
        """Return the hooks in the order of their registration."""
        return [self.restart_log, self._timer, self._rank_sync, *([self._watchdog] if self._watchdog else [])]

    def close(self) -> None:
        """Close their files and end their threads."""
        self.restart_log.close()
        if self._watchdog is not None:
            self._watchdog.close()


def hooks_to_show(options: RayOptions) -> list[Hook]:
    """Return all hooks that `train` adds with these options, to be listed and not to be run. Imports Ray for workers.

    Args:
        options: What the training asks of Ray.
    """
    if options.max_workers == 0:
        return LauncherHooks().all()
    from raydet3d.launch.ray_report import DriverLinkHook, RayReportHook
    from raydet3d.launch.signal_channel import SignalChannel

    own = LauncherHooks(hang_timeout_s=options.hang_timeout_s)
    return [DriverLinkHook(SignalChannel("")), RayReportHook(), *own.all()]
