"""Measure how fast a config loads, trains and predicts: `python -m raydet3d.benchmark CONFIG`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from raydet3d.cli import add_config, check_checkpoint, make_command_parser, read_config, run_command, version
from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.files import write_output
from raydet3d.launch.preflight import check_writable_file

if TYPE_CHECKING:
    from raydet3d.runtime.speed import SpeedReport

WHAT = ("loading", "training", "inference")
NUM_FRAMES = 8  # read for inference, and at least for training

EXAMPLES = """examples:
  python -m raydet3d.benchmark configs/demo/pointpillars_town.py
  python -m raydet3d.benchmark CONFIG --only inference --checkpoint CHECKPOINT --seconds 60
  python -m raydet3d.benchmark CONFIG --device cuda --batch-size 8 --out speed.json
  python -m raydet3d.benchmark CONFIG --only loading --num-workers 8

Frames are the config's; where its info files are not on this machine, frames are generated and loading is left out.

exit codes: 0 done; 1 failed; 2 the config, the checkpoint or a flag is wrong"""


def make_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = make_command_parser(
        "benchmark",
        "Measure samples/s of loading, training and inference, latency, memory, and the largest costs.",
        EXAMPLES,
    )
    add_config(parser)
    parser.add_argument("--checkpoint", metavar="FILE", help="weights; by default the model's initial ones")
    parser.add_argument("--only", nargs="+", choices=WHAT, default=WHAT, metavar="WHAT", help=f"{', '.join(WHAT)}")
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="frames of a training step (default: the config's)")
    parser.add_argument("--num-workers", type=int, metavar="N", help="loader workers (default: the config's)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch threads (default: ray.threads_per_worker, or 1)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="time for each figure (default: 10)")
    parser.add_argument("--no-amp", action="store_true", help="do not measure training with mixed precision")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON into this file")
    return parser


def benchmark(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    cfg = read_config(args)
    for name in ("batch_size", "threads"):
        given = getattr(args, name)
        if given is not None and given < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {given}")
    if args.num_workers is not None and args.num_workers < 0:
        raise InputError(f"--num-workers must be 0 or more, got {args.num_workers}")
    if args.checkpoint is not None:
        check_checkpoint(args.checkpoint)
    if args.out is not None:
        check_writable_file(args.out, "--out")
    with cfg.origin.located():
        report = measure(cfg, args)
    text = json.dumps(asdict(report), indent=1)
    if args.out is not None:
        write_output(args.out, text.encode())
    print(text if args.json else describe(report))
    return 0


def measure(cfg: Config, args: argparse.Namespace) -> SpeedReport:
    """Measure what the flags ask for."""
    import torch

    from raydet3d.checkpoint.load_weights import load_checkpoint
    from raydet3d.runtime.example_frames import example_frames, missing_info_file
    from raydet3d.runtime.model_profile import build_detector
    from raydet3d.runtime.run_setup import pick_device
    from raydet3d.runtime.speed import SpeedReport, advise, measure_inference, measure_loading, measure_training

    threads = args.threads or int((cfg.get("ray") or {}).get("threads_per_worker", 1))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = pick_device(args.device)
    model = build_detector(cfg)
    model.init_weights()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    report = SpeedReport(Path(args.config).name, name, threads, version())
    if args.checkpoint is not None:
        load_checkpoint(model, args.checkpoint, strict=True)
    model.to(device)
    if "loading" in args.only:
        report.loading_left_out = missing_info_file(cfg, "train")
        if report.loading_left_out is None:
            report.loading = measure_loading(cfg, seconds=args.seconds, num_workers=args.num_workers)
    if "inference" in args.only:
        frames = example_frames(cfg, model, NUM_FRAMES)
        size = int((cfg.get("test_dataloader") or {}).get("batch_size", 1))
        report.frames["inference"] = frames.source
        report.inference = measure_inference(model, frames, batch_size=size, seconds=args.seconds)
    if "training" in args.only:
        size = args.batch_size or int(cfg["train_dataloader"].get("batch_size", 1))
        frames = example_frames(cfg, model, max(NUM_FRAMES, size), mode="train")
        report.frames["training"] = frames.source
        report.training = measure_training(cfg, model, frames, batch_size=size, seconds=args.seconds)
        kind = str(cfg["optim_wrapper"].get("type", "OptimWrapper")).rpartition(".")[2]
        if kind == "OptimWrapper" and not args.no_amp:
            report.training_amp = measure_training(cfg, model, frames, batch_size=size, seconds=args.seconds, amp=True)
    report.advice = advise(report.loading, report.training, report.training_amp)
    return report


def describe(report: SpeedReport) -> str:
    """Return the report as text."""
    lines = [f"{report.config} on {report.device}, {report.threads} torch threads"]
    if report.loading_left_out is not None:
        lines.append(f"\nloading: left out, {report.loading_left_out}")
    if report.loading is not None:
        lines.append(
            f"\nloading: {report.loading.samples_per_s:.1f} samples/s with {report.loading.num_workers} workers; "
            f"{report.loading.in_process_ms:.1f} ms a sample in one process"
        )
        lines += _costs(report.loading.costs_ms)
    for title, frames, speed in (
        ("training", "training", report.training),
        ("training with AMP", "training", report.training_amp),
        ("inference", "inference", report.inference),
    ):
        if speed is not None:
            step = speed.step_ms
            lines.append(
                f"\n{title}: {speed.samples_per_s:.2f} samples/s; a step of {speed.batch_size}: {step['p50']:.1f} ms "
                f"(p50), {step['p99']:.1f} ms (p99); {speed.peak_memory_mb:.0f} MiB; {speed.steps} steps on "
                f"{report.frames[frames]}"
            )
            lines += _costs(speed.costs_ms)
    if report.advice:
        lines += ["", *(f"* {one}" for one in report.advice)]
    return "\n".join(lines)


def _costs(costs: Mapping[str, float], limit: int = 8) -> list[str]:
    whole = sum(costs.values()) or 1.0
    return [f"  {name:<28} {ms:>9.2f} ms {ms / whole:>5.0%}" for name, ms in list(costs.items())[:limit]]


def main() -> int:
    """Parse the command line and measure."""
    return benchmark(make_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
