"""`python -m raydet3d`: the version and the list of commands."""

from __future__ import annotations

from raydet3d.cli import make_command_parser, run_command

COMMANDS = """commands:
  python -m raydet3d.train CONFIG                    train on Ray workers (--workers 0: in this process)
  python -m raydet3d.evaluate CONFIG CHECKPOINT      score a checkpoint
  python -m raydet3d.infer CONFIG CHECKPOINT CLOUDS  predict on point clouds
  python -m raydet3d.publish CHECKPOINT OUT          write a small file of weights and config
  python -m raydet3d.tune CONFIG SWEEP.yaml          search over settings of a config
  python -m raydet3d.report WORK_DIR                 one HTML page about a run, several runs or a sweep
  python -m raydet3d.watch WORK_DIR                  the state of a run that is at work elsewhere
  python -m raydet3d.show config CONFIG              what a run will do: config, schedule, hooks, param groups
  python -m raydet3d.data.convert LAYOUT SOURCE ROOT recordings in another layout to the folder of own data
  python -m raydet3d.export CONFIG CHECKPOINT --out DIR  graphs for other runtimes (ONNX, torch.export)
  python -m raydet3d.benchmark CONFIG                how fast a config loads, trains and predicts
  python -m raydet3d.data.prepare kitti ROOT         turn a raw data set into what the loaders read
  python -m raydet3d.data.check CONFIG|ROOT          read every frame once: what is wrong, and what fits the data

each of them explains itself with --help"""


def main() -> int:
    """Print the version or the list of commands."""
    parser = make_command_parser(
        "", "Train 3D object detectors from a config, on one machine or on a Ray cluster.", COMMANDS
    )
    parser.parse_args()
    parser.print_help()
    return 0


if __name__ == "__main__":
    run_command(main)
