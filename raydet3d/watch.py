"""Show the state of a run that is at work elsewhere: `python -m raydet3d.watch WORK_DIR`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from raydet3d.cli import make_command_parser, run_command
from raydet3d.config import is_uri
from raydet3d.errors import InputError
from raydet3d.progress_bar import LiveLine

EXAMPLES = """examples:
  python -m raydet3d.watch work_dirs/pointpillars_town              # until the run is finished, or Ctrl-C
  python -m raydet3d.watch s3://bucket/runs/a --interval 30         # a run on a cluster, from its shared storage
  python -m raydet3d.watch work_dirs/pointpillars_town --once --json

exit codes: 0 the run is finished, or --once; 2 there is no run or a flag is wrong; 130 after Ctrl-C"""


def make_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = make_command_parser(
        "watch",
        "Show epoch, losses, speed and best scores of a run from its files alone; the run is not asked.",
        EXAMPLES,
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="the run's work dir: a folder, or a URI")
    parser.add_argument("--once", action="store_true", help="print the state once")
    parser.add_argument("--json", action="store_true", help="print it as JSON, one object a line")
    parser.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between looks (default: 2)")
    return parser


def watch(args: argparse.Namespace) -> int:
    """Show the state until the run is finished; returns the exit code."""
    if not args.interval > 0:
        raise InputError(f"--interval must be above 0 seconds, got {args.interval:g}")
    if not is_uri(args.work_dir) and not Path(args.work_dir).is_dir():
        raise InputError(f"{args.work_dir}: there is no such folder; give a run's work dir")
    from raydet3d.reports.live_status import StatusReader

    reader = StatusReader(args.work_dir if is_uri(args.work_dir) else Path(args.work_dir))
    live, before = LiveLine(), ""
    try:
        while True:
            status = reader.read()
            is_last = args.once or status.state == "finished"
            if args.json:
                text = json.dumps(status.to_dict(), allow_nan=False)
            elif live.is_terminal and not is_last:
                live.show(status.panel(shutil.get_terminal_size().columns))
                text = ""
            else:
                text = "\n".join(status.rows())
            shown = {**status.to_dict(), "updated_s": None}
            if text and (is_last or str(shown) != before):
                live.clear()
                print(text, flush=True)
            before = str(shown)
            if is_last:
                return 0
            time.sleep(args.interval)
    finally:
        live.clear()
        sys.stdout.flush()


def main() -> int:
    """Parse the command line and watch."""
    return watch(make_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
