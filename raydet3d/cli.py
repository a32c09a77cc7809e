"""Shared by all commands: flags, exit codes, error printing."""

from __future__ import annotations

import argparse
import atexit
import io
import os
import platform
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import raydet3d
from raydet3d.config import Config, is_uri, parse_options
from raydet3d.errors import InputError
from raydet3d.launch.signals import Stopped, StopRequest, stop_signals

FAILED, BAD_INPUT, RESUMABLE, INTERRUPTED = 1, 2, 75, 130


def make_command_parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Make the parser of `python -m raydet3d.NAME`, with `--version`; lines of the epilog stay as they are."""
    parser = argparse.ArgumentParser(
        prog=f"python -m raydet3d.{name}".rstrip("."),
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version())
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the config argument and the overrides of its keys."""
    parser.add_argument("config", metavar="CONFIG", help="config file (.py, .yaml or .json), or a shipped one's path")
    add_cfg_options(parser)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override keys (optim_wrapper.optimizer.lr=0.01) or variables (lr=0.01) of the config",
    )


def add_ray(
    parser: argparse.ArgumentParser, default: str = "ray.num_workers of the config", verb: str = "trains"
) -> None:
    """Add the flags of commands that work on Ray: the config's `ray` dict.

    Args:
        parser: The command's parser.
        default: Number of workers without the flag, for the help.
        verb: What the command does, for the help.
    """
    parser.add_argument(
        "--workers",
        metavar="N",
        help="Ray workers, or a range such as 1-8 for as many as there is room for "
        f"(default: {default}); 0 {verb} in this process, without Ray",
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
    """Read the config that the flags name, with its overrides.

    Raises:
        InputError: The config or a flag is wrong.
    """
    options = [*args.cfg_options, *(f"ray.{option}" for option in getattr(args, "ray", ()))]
    return Config.fromfile(args.config, options=parse_options(options))


def check_checkpoint(name: str) -> None:
    """Refuse a checkpoint that does not exist; a URL is looked up when it is read.

    Raises:
        InputError: It does not exist.
    """
    if not is_uri(name) and not Path(name).exists():
        raise InputError(f"checkpoint {name} does not exist")


def add_launcher_flags(parser: argparse.ArgumentParser) -> None:
    """Accept the launcher flags of MMDetection3D's scripts; torchrun is recognised by its environment."""
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch"],
        default="none",
        help="accepted for scripts of MMDetection3D; torchrun is detected",
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code.

    An `InputError` is printed as one line (by one rank only where all ranks raise it) followed by its detail and exits
    with 2, a stop request with 75, Ctrl-C with 130, any other exception with its traceback and 1.

    Args:
        main: The command; it reads `sys.argv` and returns the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may be ASCII; names of files and classes are not
    _print_warnings_as_lines()
    with stop_signals() as request:
        code = _run(main, request)
    atexit.register(_ignore_stop_signals)  # the work is done: a signal during the cleanup does not change the exit code
    sys.exit(code)


def _run(main: Callable[[], int], request: StopRequest) -> int | str | None:
    """Call the command, report how it ended, and return the exit code."""
    try:
        code: int | str | None = main()
        sys.stdout.flush()
        request.is_over = True
        return code
    except BaseException as error:  # noqa: BLE001 - the last handler of the process
        request.is_over = True
        return _report(error, request)


def _report(error: BaseException, request: StopRequest) -> int | str | None:
    match error:
        case SystemExit():
            return error.code
        case Stopped():
            print(f"raydet3d: {error}; the same command resumes", file=sys.stderr)
            return INTERRUPTED if error.reason == "SIGINT" else RESUMABLE
        case KeyboardInterrupt():
            print("raydet3d: interrupted", file=sys.stderr)
            return INTERRUPTED
        case InputError():
            if not _is_printed_elsewhere(error):
                print(f"raydet3d: error: {' '.join(str(error).split())}", file=sys.stderr)
                if error.detail:
                    print(error.detail.rstrip(), file=sys.stderr)
            return BAD_INPUT
        case BrokenPipeError():
            # The reader (`| head`) has gone; the interpreter would write to it again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
    if request.reason is not None and not request.trains:
        # Another rank left first, or the user's code replaced the exception.
        print(f"raydet3d: stopped ({request.reason}); the same command resumes", file=sys.stderr)
        return RESUMABLE
    traceback.print_exception(error)
    return FAILED


def _ignore_stop_signals() -> None:
    for kind in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(kind, signal.SIG_IGN)


def _print_warnings_as_lines() -> None:
    """Print this package's warnings, those about deprecated configs included, as single lines."""
    format_other = warnings.formatwarning
    package = os.path.dirname(raydet3d.__file__) + os.sep

    def format_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if filename.startswith(package):
            return f"raydet3d: warning: {message}\n"
        return format_other(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    warnings.filterwarnings("default", category=DeprecationWarning, module=r"raydet3d\.config")


def _is_printed_elsewhere(error: InputError) -> bool:
    """Whether another torchrun rank prints the same error.

    Rank 0 prints what only rank 0 did (`dist.on_rank0`). Before the process group exists, all ranks of a machine read
    the same files, and local rank 0 prints. Later, an error such as a damaged sample may be known to this rank only.
    """
    if os.environ.get("RANK", "0") == "0":
        return False
    if getattr(error, "reported_by_rank0", False):
        return True
    dist = sys.modules.get("raydet3d.dist")  # not imported here: a command refuses bad input before torch is loaded
    met = dist is not None and dist.is_distributed()
    return not met and os.environ.get("LOCAL_RANK", "0") != "0"


def version() -> str:
    """Return the versions of this package and of the packages that its numbers depend on."""
    others = [f"python {platform.python_version()}"]
    for name in ("torch", "ray", "numpy"):
        try:
            others.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            others.append(f"{name} missing")
    return f"raydet3d {raydet3d.__version__} ({', '.join(others)})"
