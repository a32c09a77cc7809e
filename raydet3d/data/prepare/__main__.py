"""`python -m raydet3d.data.prepare DATASET ROOT [OPTIONS]`: make what training reads from a downloaded data set."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from raydet3d.cli import run_command, version
from raydet3d.data.prepare import PREPARERS
from raydet3d.errors import InputError
from raydet3d.host import num_processors
from raydet3d.log import get_logger

EXAMPLES = """examples:
  python -m raydet3d.data.prepare kitti data/kitti --workers 8
  python -m raydet3d.data.prepare nuscenes data/nuscenes --version v1.0-mini
  RAY_ADDRESS=HOST:6379 python -m raydet3d.data.prepare nuscenes /shared/nuscenes --ray    # on a cluster
  python -m raydet3d.data.prepare custom data/mine

exit codes: 0 done; 1 failed; 2 the raw data or a flag is wrong; 75 stopped (SIGTERM, SIGUSR1) or 130 (Ctrl-C): the same
command continues where it was"""


class _Version(argparse.Action):
    """Takes the version of the data set; alone, prints this program's version."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Keep the value, or print and exit."""
        if values is None:
            print(version())
            parser.exit()
        setattr(namespace, self.dest, values)


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
    parser.add_argument(
        "--ray",
        action="store_true",
        help="prepare as Ray tasks on the cluster of RAY_ADDRESS, or on one that is started here; every node must see "
        "ROOT under this path; --workers limits the tasks that run at once",
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs="?",
        metavar="V",
        help="version of the data set, where it has some (nuscenes: v1.0-mini, v1.0-trainval, v1.0-test); without a "
        "value: print this program's version",
    )
    options = parser.parse_args(arguments)
    console = logging.StreamHandler(sys.stdout)
    level = get_logger().level
    get_logger().addHandler(console)
    get_logger().setLevel(logging.INFO)
    workers = (0 if options.ray else num_processors()) if options.workers is None else options.workers
    try:
        if workers < 0:
            raise InputError(f"--workers must be 0 or more, got {workers}")
        if "\0" in options.root:
            raise InputError(f"ROOT {options.root!r} holds a NUL character")
        prepare = PREPARERS.get(options.dataset)
        more: dict[str, Any] = {} if options.version is None else {"version": options.version}
        known = inspect.signature(prepare).parameters
        if more and "version" not in known:
            raise InputError(f"--version {options.version}: {options.dataset} has no versions")
        if options.ray:
            if "runner" not in known:
                raise InputError(f"--ray: {options.dataset} is prepared on this machine only; use --workers")
            from raydet3d.launch.ray_jobs import RayJobs

            more["runner"] = RayJobs(options.root)
        prepare(options.root, workers=workers, **more)
    finally:
        get_logger().removeHandler(console)
        get_logger().setLevel(level)
    return 0


if __name__ == "__main__":
    run_command(main)
