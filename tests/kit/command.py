"""The train command in this process, with interruptions that leave its config as it is."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydet3d.errors import InputError
from raydet3d.launch.signals import StopRequest
from raydet3d.train import make_parser, train
from tests.kit.faults import CallAt
from tests.kit.runs import write_config

INTERRUPTED = 99


class Interruption(Exception):
    """Ends a run in the middle, as a kill does as far as its files are concerned."""


def interrupt(_: Any) -> None:
    raise Interruption


def toy_config(folder: Path, **changes: Any) -> Path:
    """A toy config of one epoch of 24 iterations, saved every 4, which `run_train` can interrupt."""
    return write_config(folder, {"type": "CallAt"}, trace=False, **{"epochs": 1, "val_interval": 1, **changes})


def run_train(
    config: Path, *flags: str, at: dict[int, Callable[[Any], None]] | None = None, work_dir: Path | str | None = None
) -> tuple[int, str]:
    """Run the command in this process.

    Args:
        config: The config file.
        *flags: Further flags.
        at: Called with the runner before an iteration.
        work_dir: The work dir; `work` beside the config by default.

    Returns:
        Exit code (`INTERRUPTED` after an `Interruption`) and output.
    """
    CallAt.actions = at or {}
    where = config.parent / "work" if work_dir is None else work_dir
    args = make_parser().parse_args([str(config), "--workers", "0", "--work-dir", str(where), *flags])
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = train(args, StopRequest())
        except InputError as error:
            print(f"raydet3d: error: {error}")
            code = 2
        except Interruption:
            code = INTERRUPTED
        finally:
            CallAt.actions = {}
    return code, out.getvalue()
