"""Publish a checkpoint: `python -m raydet3d.publish CHECKPOINT OUT`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from raydet3d.cli import check_checkpoint, make_command_parser, run_command
from raydet3d.config import Config

EXAMPLES = """examples:
  python -m raydet3d.publish work_dirs/pointpillars_town/epoch_15.pth town    # writes town-1a2b3c4d.pth
  python -m raydet3d.publish epoch_15.pth models/                             # writes models/epoch_15-1a2b3c4d.pth
  python -m raydet3d.publish theirs.pth mine --config CONFIG                  # weights that hold no config

exit codes: 0 done; 1 failed; 2 the checkpoint, the config or a flag is wrong"""


def make_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = make_command_parser(
        "publish",
        "Write a small file of a checkpoint's weights (the averaged ones, where EMAHook made some), its "
        "config and class names, under a name that ends in 8 hex digits of its SHA-256.",
        EXAMPLES,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of ours or of MMEngine's")
    parser.add_argument("out", metavar="OUT", type=Path, help="name of the new file, or a folder that exists")
    parser.add_argument("--config", metavar="CONFIG", help="config to put in (default: the one in the checkpoint)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main() -> int:
    """Parse the command line and publish."""
    args = make_parser().parse_args()
    check_checkpoint(args.checkpoint)
    cfg = None if args.config is None else Config.fromfile(args.config)

    from raydet3d.checkpoint.published_file import publish

    file, is_average = publish(args.checkpoint, args.out, cfg=cfg)
    size = file.stat().st_size
    if args.json:
        print(json.dumps({"file": str(file), "bytes": size, "averaged": is_average}))
    else:
        print(f"Published: {file} ({size / 2**20:.1f} MB)" + (", averaged weights" if is_average else ""))
    return 0


if __name__ == "__main__":
    run_command(main)
