"""What all doors share: how a command ends, and what its mistakes look like."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any, NoReturn

import raydet3d
from raydet3d.config import Config, find_config, parse_options
from raydet3d.errors import InputError
from raydet3d.launch.signals import Stopped

FAILED, BAD_INPUT, RESUMABLE, INTERRUPTED = 1, 2, 75, 130


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add what a door takes that works on a config: the config and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="config file (.py, .yaml or .json), or a shipped one's path")
    add_cfg_options(parser)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the overrides of a config."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override keys (optim_wrapper.optimizer.lr=0.01) or variables (lr=0.01) of the config",
    )


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add what the doors that train on Ray take: the config's ``ray`` dict as flags."""
    parser.add_argument(
        "--workers",
        metavar="N",
        help="Ray workers, or a range such as 1-8 for as many as there is room for "
        "(default: ray.num_workers of the config); 0 trains in this process, without Ray",
    )
    parser.add_argument(
        "--ray",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of ray=dict(...): gpus_per_worker=1 max_failures=10 placement_strategy=SPREAD",
    )


def read_config(args: argparse.Namespace) -> Config:
    """The config that the flags name, with its overrides.

    Raises:
        InputError: The config or a flag is wrong.
    """
    options = [*args.cfg_options, *(f"ray.{option}" for option in getattr(args, "ray", ()))]
    return Config.fromfile(find_config(args.config), options=parse_options(options))


def add_launcher_flags(parser: argparse.ArgumentParser) -> None:
    """Accept what launch scripts of MMDetection3D pass on; torchrun is recognised by its environment."""
    parser.add_argument("--launcher", choices=["none", "pytorch"], default="none", help="accepted for old habits")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code.

    An ``InputError`` is printed as one line (once, where it is that of all ranks), its detail below it, and ends with
    2, a run that was stopped before it trained ends with 75, Ctrl-C with 130, anything else that is raised with its
    trace and 1.

    Args:
        main: The command; it reads ``sys.argv`` and returns the exit code.
    """
    _print_warnings_as_lines()
    try:
        code = main()
        sys.stdout.flush()
    except InputError as error:
        if not _is_said_elsewhere(error):
            print(f"raydet3d: error: {' '.join(str(error).split())}", file=sys.stderr)
            if error.detail:
                print(error.detail.rstrip(), file=sys.stderr)
        code = BAD_INPUT
    except Stopped as stopped:
        print(f"raydet3d: {stopped}; the same command goes on", file=sys.stderr)
        code = RESUMABLE
    except KeyboardInterrupt:
        print("raydet3d: interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left. Nothing more can be said to it; python would still try when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except Exception:  # noqa: BLE001 - the end of the line: whatever it is, show it and fail
        traceback.print_exc()
        code = FAILED
    sys.exit(code)


def _print_warnings_as_lines() -> None:
    """Print this package's warnings as lines, deprecated configs too; other packages' stay as they are."""
    show = warnings.showwarning
    package = os.path.dirname(raydet3d.__file__) + os.sep

    def say(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any) -> None:
        if filename.startswith(package):
            print(f"raydet3d: warning: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, *rest, **more)

    warnings.showwarning = say
    warnings.filterwarnings("default", category=DeprecationWarning, module=r"raydet3d\.config")


def _is_said_elsewhere(error: InputError) -> bool:
    """Whether another rank of torchrun's prints the same sentence.

    What rank 0 alone did (``dist.on_rank0``), rank 0 says. Before the ranks have met, those of a machine meet the same
    files: its first one says it. After that, what a rank finds (a damaged file among its samples) may be known to
    nobody else.
    """
    if os.environ.get("RANK", "0") == "0":
        return False
    if getattr(error, "reported_by_rank0", False):
        return True
    dist = sys.modules.get("raydet3d.dist")  # not imported here: doors are quick to refuse
    met = dist is not None and dist.is_distributed()
    return not met and os.environ.get("LOCAL_RANK", "0") != "0"


def version() -> str:
    """This package's version, and those of what its numbers depend on."""
    others = [f"python {platform.python_version()}"]
    for name in ("torch", "ray", "numpy"):
        try:
            others.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            others.append(f"{name} missing")
    return f"raydet3d {raydet3d.__version__} ({', '.join(others)})"
