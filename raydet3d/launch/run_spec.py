"""One run as plain data, which can be sent to another process, and what comes back."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raydet3d.config import Config
from raydet3d.config.provenance import Origin


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run.

    Args:
        cfg: The resolved config.
        filename: The config's file, for names and records.
        run_id: Name of this start of the run; the same for all its processes and tries.
        task: Train, or test what the config's `load_from` names.
        tta: Of a test, whether it predicts on the views of `tta_pipeline`.
        resume: False, True (newest checkpoint of the work dir) or a checkpoint's path.
        run: With `resume=True`, name of the run in the work dir to resume; empty: the one that saved last.
        retry: Whether this start was tried before: its own newest checkpoint comes first then.
        threads: Torch threads of a process; None leaves torch's default.
        cwd: Folder that relative paths of the config start from; that of this process.
        modules: Folders of the user's modules: `PYTHONPATH` of the process that starts the run. The workers of a
            cluster that is joined were started with another one.
        batch_workers: How many workers' batches make an iteration; None: as many as when the run began.
        why: Why this start was made, where it was not the user.
        hang_timeout_s: Seconds without progress after which the process ends; 0: never.
        straggler_ratio: A rank that takes so many times as long as the others is named.
        origin: Where the config's values come from (`cfg.origin`).
        lock_file: File that rank 0 keeps locked, since a killed run's processes may live on for some seconds.
    """

    cfg: dict[str, Any]
    filename: str | None
    run_id: str
    task: Literal["train", "test"] = "train"
    tta: bool = False
    resume: bool | str = False
    run: str = ""
    retry: bool = False
    threads: int | None = None
    cwd: str = field(default_factory=os.getcwd)
    modules: list[str] = field(default_factory=lambda: module_folders())
    batch_workers: int | None = None
    why: str = ""
    hang_timeout_s: float = 0
    straggler_ratio: float = 1.5
    origin: Origin = field(default_factory=Origin)
    lock_file: str | None = None

    def config(self) -> Config:
        """Return the config, with its custom modules imported."""
        cfg = Config(self.cfg, filename=self.filename, origin=self.origin)
        cfg.import_custom_modules()
        return cfg


def new_run_id(work_dir: Path) -> str:
    """Create a run ID from the current time that is unique in the work dir."""
    now = time.strftime("%Y%m%d_%H%M%S")
    names = (f"{now}-{number}" if number else now for number in itertools.count())
    return next(name for name in names if not (work_dir / name).exists())


def module_folders() -> list[str]:
    """Return the folders of this process's `PYTHONPATH`."""
    return [os.path.abspath(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
