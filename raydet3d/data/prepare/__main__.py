"""`python -m raydet3d.data.prepare kitti ROOT [--workers N]`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from raydet3d.cli import run_command, version
from raydet3d.data.prepare.kitti import prepare_kitti
from raydet3d.errors import InputError
from raydet3d.host import num_processors
from raydet3d.log import get_logger

EXAMPLES = """The raw layout that is wanted, and what comes beside it:

  ROOT/ImageSets/{train,val,trainval,test}.txt   those that are there
  ROOT/training/{velodyne,label_2,calib,image_2} and planes, where you have them
  ROOT/testing/{velodyne,calib,image_2}          for test.txt
  -> ROOT/kitti_infos_*.pkl  ROOT/training/velodyne_reduced/  ROOT/kitti_dbinfos_train.pkl  ROOT/kitti_gt_database*

example:
  python -m raydet3d.data.prepare kitti data/kitti --workers 8

exit codes: 0 done; 1 failed; 2 something in the raw data or the flags has to be mended first;
75 stopped (SIGTERM, SIGUSR1) or 130 (Ctrl-C): the same command goes on where it was"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the data set that the command line names.

    Raises:
        InputError: The raw data or a flag is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m raydet3d.data.prepare",
        description="Turn a data set as it is downloaded into what training reads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=["kitti"], help="layout of the data set")
    parser.add_argument("root", metavar="ROOT", help="its folder")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one for each processor; 0: none but this)"
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
        prepare_kitti(options.root, workers=workers)
    finally:
        get_logger().removeHandler(console)
        get_logger().setLevel(level)
    return 0


if __name__ == "__main__":
    run_command(main)
