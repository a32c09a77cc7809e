"""`python -m raydet3d.data.convert LAYOUT SOURCE ROOT [OPTIONS]`: recordings in another layout to own data."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Sequence

from raydet3d.cli import run_command, version
from raydet3d.data.convert import CONVERTERS
from raydet3d.errors import InputError
from raydet3d.launch.preflight import check_writable

EXAMPLES = """examples:
  python -m raydet3d.data.convert kitti_tracking data/kitti_tracking data/tracks --val 0003 0011
  python -m raydet3d.data.convert scene_tables data/lyft data/custom --version train_data
  python -m raydet3d.data.prepare custom data/custom

exit codes: 0 done; 1 failed; 2 the source or a flag is wrong"""


def describe_converters() -> str:
    """Return the help text of the known layouts, from the docstrings of their functions."""
    texts = []
    for name in CONVERTERS:
        text = inspect.getdoc(CONVERTERS.get(name)) or ""
        texts.append(f"{name}\n{textwrap.indent(text.partition('Args:')[0].strip(), '  ')}")
    return "layouts:\n\n" + "\n\n".join(texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert the recordings that the command line names.

    Raises:
        InputError: The source or a flag is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m raydet3d.data.convert",
        description="Convert recordings in another layout to the folder that 'raydet3d.data.prepare custom' reads.",
        epilog=f"{describe_converters()}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("layout", metavar="LAYOUT", help=f"one of: {', '.join(CONVERTERS)}")
    parser.add_argument("source", metavar="SOURCE", help="folder of the recordings; nothing is written there")
    parser.add_argument("root", metavar="ROOT", help="folder to make")
    parser.add_argument("--val", nargs="+", metavar="NAME", help="sequences to validate on (default: every fifth)")
    parser.add_argument("--version", metavar="V", help="folder of the tables in SOURCE (scene_tables)")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="columns of .bin clouds (scene_tables)")
    parser.add_argument("-V", action="version", version=version(), help="print this program's version")
    options = parser.parse_args(arguments)
    convert = CONVERTERS.get(options.layout)
    given = {key: getattr(options, key) for key in ("val", "version", "columns")}
    more = {key: value for key, value in given.items() if value is not None}
    for key in more:
        if key not in inspect.signature(convert).parameters:
            raise InputError(f"--{key}: {options.layout} does not take it")
    check_writable(options.root, "ROOT", "choose another folder")
    convert(options.source, options.root, **more)
    return 0


if __name__ == "__main__":
    run_command(main)
