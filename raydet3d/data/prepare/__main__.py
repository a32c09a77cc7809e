"""`python -m raydet3d.data.prepare DATASET ROOT [--workers N]`: make what training reads from a downloaded data set."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
import textwrap
from collections.abc import Sequence

from raydet3d.cli import run_command, version
from raydet3d.data.prepare import PREPARERS
from raydet3d.errors import InputError
from raydet3d.host import num_processors
from raydet3d.log import get_logger

EXAMPLES = """example:
  python -m raydet3d.data.prepare kitti data/kitti --workers 8

exit codes: 0 done; 1 failed; 2 the raw data or a flag is wrong; 75 stopped (SIGTERM, SIGUSR1) or 130 (Ctrl-C): the same
command continues where it was"""


def describe_preparers() -> str:
    """Return the help text of the known data sets, from the docstrings of their functions."""
    texts = []
    for name in PREPARERS:
        text = inspect.getdoc(PREPARERS.get(name)) or ""
        texts.append(f"{name}\n{textwrap.indent(text.partition('Args:')[0].strip(), '  ')}")
    return "data sets:\n\n" + "\n\n".join(texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the data set that the command line names.

    Raises:
        InputError: The raw data or a flag is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m raydet3d.data.prepare",
        description="Make the info files and point clouds that training reads from a downloaded data set. "
        "After an interruption, the same command continues.",
        epilog=f"{describe_preparers()}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", help=f"one of: {', '.join(PREPARERS)}")
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one for each processor; 0: only this one)"
    )
    parser.add_argument("--version", action="version", version=version())
    options = parser.parse_args(arguments)
    console = logging.StreamHandler(sys.stdout)
    level = get_logger().level
    get_logger().addHandler(console)
    get_logger().setLevel(logging.INFO)
    workers = num_processors() if options.workers is None else options.workers
    try:
        if workers < 0:
            raise InputError(f"--workers must be 0 or more, got {workers}")
        if "\0" in options.root:
            raise InputError(f"ROOT {options.root!r} holds a NUL character")
        PREPARERS.get(options.dataset)(options.root, workers=workers)
    finally:
        get_logger().removeHandler(console)
        get_logger().setLevel(level)
    return 0


if __name__ == "__main__":
    run_command(main)
