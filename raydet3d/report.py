"""Write the report of a run, of several side by side, or of a sweep: `python -m raydet3d.report WORK_DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet3d.cli import make_command_parser, run_command
from raydet3d.config import is_uri
from raydet3d.errors import InputError
from raydet3d.files import write_output
from raydet3d.launch.preflight import check_writable_file

EXAMPLES = """examples:
  python -m raydet3d.report work_dirs/pointpillars_town                     # work_dirs/pointpillars_town/report.html
  python -m raydet3d.report work_dirs/NEW --compare work_dirs/OLD OTHER     # side by side, differing config keys first
  python -m raydet3d.report s3://bucket/runs/a --out report.html            # a run behind a URI
  python -m raydet3d.report work_dirs/pointpillars_town-lr_asha             # a sweep: as tune --report does

exit codes: 0 done; 1 failed; 2 there is no run or a flag is wrong"""


def make_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = make_command_parser(
        "report", "Write one HTML page about a run from its files alone: scores, curves, config, detections.", EXAMPLES
    )
    parser.add_argument("work_dir", metavar="WORK_DIR", help="a run's work dir, a URI, or a sweep's folder")
    parser.add_argument("--compare", nargs="+", default=[], metavar="DIR", help="further runs to show beside it")
    parser.add_argument("--out", metavar="FILE", help="the page (default: report.html in the work dir)")
    return parser


def report(args: argparse.Namespace) -> int:
    """Write the page and print its path; returns the exit code."""
    for place in (args.work_dir, *args.compare):
        if not is_uri(place) and not Path(place).is_dir():
            raise InputError(f"{place}: there is no such folder; give a run's work dir")
    if args.out is not None:
        check_writable_file(args.out, "--out")
    if not is_uri(args.work_dir) and (Path(args.work_dir) / "sweep.json").is_file():
        if args.compare:
            raise InputError(f"{args.work_dir} is a sweep, which --compare does not take; compare its trials/NUMBER")
        from raydet3d.sweep.sweep_run import report as report_sweep

        page = report_sweep(args.work_dir, args.out).folder / "report.html"
        print(f"Report: {args.out or page}")
        return 0
    if args.out is None and is_uri(args.work_dir):
        raise InputError(f"{args.work_dir} is a URI: say where to write the page with --out FILE")
    from raydet3d.reports.run_files import read_run
    from raydet3d.reports.run_report import render_runs

    out = Path(args.out) if args.out else Path(args.work_dir) / ("comparison.html" if args.compare else "report.html")
    text = render_runs([read_run(place if is_uri(place) else Path(place)) for place in (args.work_dir, *args.compare)])
    write_output(out, text.encode())
    print(f"Report: {out}")
    return 0


def main() -> int:
    """Parse the command line and write the report."""
    return report(make_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
