"""Export a detector's dense parts: `python -m raydet3d.export CONFIG CHECKPOINT --format onnx --out DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from raydet3d.cli import FAILED, add_config, check_checkpoint, make_command_parser, read_config, run_command
from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.files import write_output
from raydet3d.launch.preflight import check_writable

DESCRIPTION = "deployment.json"

EXAMPLES = """examples:
  python -m raydet3d.export CONFIG CHECKPOINT --format onnx --out exported/
  python -m raydet3d.export CONFIG CHECKPOINT --format onnx --opset 17 --out exported/   # for older runtimes
  python -m raydet3d.export CONFIG CHECKPOINT --format torch-export --out exported/      # torch.export.load reads it

writes pts_voxel_encoder.onnx (input_features -> pillar_features), pts_backbone_neck_head.onnx (spatial_features -> one
output for each map of the head) and deployment.json (range, voxels, classes, normalization, post-processing), after
comparing every output with the model's: absolute 1e-4 in float32, for two numbers of voxels and two batch sizes.

exit codes: 0 done; 1 an output differs from the model's, and nothing is written; 2 the config, the checkpoint or a flag
is wrong, a package is missing, or an operator cannot be exported"""


def make_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = make_command_parser(
        "export", "Export the dense parts of a detector as graphs for other runtimes.", EXAMPLES
    )
    add_config(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint file, ours or MMEngine's")
    parser.add_argument("--format", choices=["onnx", "torch-export"], default="onnx", help="default: onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default: torch's choice)")
    return parser


def export(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    cfg = read_config(args)
    check_checkpoint(args.checkpoint)
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out} is a file; name a folder")
    check_writable(args.out, "--out", "choose another folder")
    with cfg.origin.located():
        return _export(cfg, args)


def _export(cfg: Config, args: argparse.Namespace) -> int:
    from raydet3d.models.export_graphs import dense_graphs
    from raydet3d.runtime.ddp import from_sync_bn
    from raydet3d.runtime.deployment import describe_deployment, exportable
    from raydet3d.runtime.example_frames import example_frames
    from raydet3d.runtime.graph_files import (
        TOLERANCE,
        check_extra,
        export_graph,
        largest_differences,
        reference_tensors,
    )
    from raydet3d.runtime.inference import init_model

    check_extra(args.format)
    model = exportable(from_sync_bn(init_model(cfg, args.checkpoint, "cpu")))
    frames = example_frames(cfg, model, 2)
    batches = [reference_tensors(model, frames.batch(size)) for size in (1, 2)]
    graphs, left_out = dense_graphs(model)
    exported, worst = [], 0.0
    for graph in graphs:
        example, outputs = batches[0][graph.name]
        made = export_graph(graph, example, list(outputs), file_format=args.format, opset=args.opset)
        for batch in batches:
            for name, difference in largest_differences(made, *batch[graph.name]).items():
                if not difference <= TOLERANCE:
                    print(
                        f"raydet3d: {made.file_name}: {name} differs from the model's by {difference:.3g}, more than "
                        f"{TOLERANCE:g}; nothing was written",
                        file=sys.stderr,
                    )
                    return FAILED
                worst = max(worst, difference)
        exported.append(made)
    description = describe_deployment(cfg, model, exported, batches[1])
    description["config"], description["checkpoint"] = Path(args.config).name, Path(args.checkpoint).name
    description["not_exported"] = left_out
    description["checked"] = {"frames": frames.source, "batch_sizes": [1, 2], "largest_difference": worst}
    for made in exported:
        write_output(args.out / made.file_name, made.data, durable=True)
    write_output(args.out / DESCRIPTION, json.dumps(description, indent=1, default=str).encode(), durable=True)  # last
    for part, reason in left_out.items():
        print(f"{part} ({type(getattr(model, part)).__name__}) is not exported: {reason}")
    print(f"largest difference from the model: {worst:.2g} ({frames.source}; batches of 1 and 2)")
    for name in (*(made.file_name for made in exported), DESCRIPTION):
        print(f"wrote {args.out / name}")
    return 0


def main() -> int:
    """Parse the command line and export."""
    return export(make_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
