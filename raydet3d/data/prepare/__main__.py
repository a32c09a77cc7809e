"""`python -m raydet3d.data.prepare DATASET ROOT [--workers N]`: make what training reads from a downloaded data set."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
import textwrap
from collections.abc import Sequence

from raydet3d.data.prepare import PREPARERS
from raydet3d.errors import InputError
from raydet3d.host import num_processors
from raydet3d.log import get_logger


def describe_preparers() -> str:
    """Return the help text of the known data sets, from the docstrings of their functions."""
    texts = []
    for name in PREPARERS:
        text = inspect.getdoc(PREPARERS.get(name)) or ""
        texts.append(f"{name}\n{textwrap.indent(text.partition('Args:')[0].strip(), '  ')}")
    return "data sets:\n\n" + "\n\n".join(texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when done, 2 for missing or damaged raw data, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m raydet3d.data.prepare",
        description="Make the info files and point clouds that training reads from a downloaded data set. "
        "After an interruption, the same command continues.",
        epilog=f"{describe_preparers()}\n\nexample:\n  python -m raydet3d.data.prepare kitti data/kitti --workers 8\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", help=f"one of: {', '.join(PREPARERS)}")
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one for each processor; 0: only this one)"
    )
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
    except InputError as error:
        print(f"raydet3d: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("raydet3d: interrupted; the same command continues where it was", file=sys.stderr)
        return 130
    finally:
        get_logger().removeHandler(console)
        get_logger().setLevel(level)
    return 0


if __name__ == "__main__":
    sys.exit(main())
