"""Run a sweep: `python -m raydet3d.tune CONFIG SWEEP.yaml`; the same command resumes after any stop."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet3d.cli import FAILED, add_cfg_options, make_command_parser, run_command
from raydet3d.config import parse_options
from raydet3d.errors import InputError
from raydet3d.launch.signals import StopRequest, stop_signals
from raydet3d.sweep.results import TIED_HINT, Results
from raydet3d.sweep.sweep_run import report, sweep
from raydet3d.sweep.trial_store import FAILED as FAILED_TRIAL

__all__ = ["report", "sweep"]

EXAMPLES = """examples:
  python -m raydet3d.tune configs/demo/pointpillars_town.py configs/sweeps/lr_asha.yaml
  python -m raydet3d.tune CONFIG SWEEP.yaml --smoke            # the same in small, to see that it works
  python -m raydet3d.tune CONFIG SWEEP.yaml                    # once more: resumes where it was stopped or killed
  python -m raydet3d.tune --report work_dirs/NAME              # tables and report.html anew

from a notebook:
  from raydet3d.tune import sweep
  results = sweep("configs/demo/pointpillars_town.py", "configs/sweeps/lr_asha.yaml")
  results                      # the table
  results.best.setting, results.best_config

exit codes: 0 done; 1 failed, or a trial has failed for good; 2 something in the config, the sweep or the flags has to
be mended first; 75 stopped (SIGTERM, SIGUSR1, ray.time_limit_s), 130 interrupted: the trials have saved, and the same
command resumes"""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's flags."""
    parser = make_command_parser(
        "tune",
        "Try settings of a config: search, stop the hopeless early, rank, and write the best as a config.",
        EXAMPLES,
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="config file, or a shipped one's path")
    parser.add_argument("sweep", metavar="SWEEP.yaml", nargs="?", help="what is tried, and how")
    add_cfg_options(parser)
    parser.add_argument(
        "--work-dir", metavar="DIR", help="the sweep's folder (default: work_dirs/<config's name>-<sweep's name>)"
    )
    parser.add_argument("--smoke", action="store_true", help="the small size that the sweep's smoke section describes")
    parser.add_argument(
        "--retry-failed", action="store_true", help="try trials that have failed again, from their newest checkpoints"
    )
    parser.add_argument("--report", metavar="DIR", help="write a sweep's tables and report anew")
    return parser


def tune(args: argparse.Namespace, request: StopRequest) -> int:
    """Run the command.

    Args:
        args: The flags.
        request: Whether this process is asked to stop.

    Returns:
        The exit code.
    """
    if args.report is not None:
        if args.config is not None:
            raise InputError("--report takes the sweep's folder alone, without CONFIG and SWEEP.yaml")
        results = report(args.report)
    else:
        if args.config is None or args.sweep is None:
            raise InputError("give CONFIG and SWEEP.yaml, or --report DIR; --help shows examples")
        results = sweep(
            args.config,
            args.sweep,
            work_dir=args.work_dir,
            cfg_options=parse_options(args.cfg_options),
            smoke=args.smoke,
            retry_failed=args.retry_failed,
            request=request,
        )
    print_results(results)
    failed = [trial for trial in results.trials if trial.state == FAILED_TRIAL]
    for trial in failed:
        print(f"Failed: trial {trial.id}: {trial.reason}")
    if failed and args.report is None:
        print(f"{len(failed)} of {len(results.trials)} trials have failed; --retry-failed tries them again.")
        return FAILED
    return 0


def print_results(results: Results) -> None:
    """Print the last lines of a sweep: the table, and where its files are."""
    print(results)
    print(f"{len(results.trials)} trials in {int(results.seconds) // 60} min {int(results.seconds) % 60} s")
    best = results.best
    if best is not None:
        print(f"Best: trial {best.id}, {results.metric.rsplit('/', 1)[-1]} {best.best(results.mode):.4f}")
        if results.is_tied:
            print(f"All scores are equal, so trial {best.id} is no better than the others: {TIED_HINT}")
        print(f"Best config: {_short(results.best_config)}")
    for title, name in (("Table", "results.csv"), ("Report", "report.html")):
        print(f"{title}: {_short(results.folder / name)}")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main() -> int:
    """Parse the command line and sweep."""
    args = make_parser().parse_args()
    with stop_signals() as request:
        return tune(args, request)


if __name__ == "__main__":
    run_command(main)
