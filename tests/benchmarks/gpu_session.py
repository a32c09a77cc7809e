"""All that a GPU has to show, in at most ten minutes: the tests marked gpu, then speed, memory and costs of the models.

    python tests/benchmarks/gpu_session.py --out OUT                # everything, on the GPU
    python tests/benchmarks/gpu_session.py --out OUT --dry-run      # the same steps on a CPU, with tiny models

Each step is a process of its own, so that one that fails or runs out of memory takes nothing else with it; what the
time no longer allows is named as left out. Every model is measured at its published size and batch: training and
inference in samples/s, latency (inference of one frame), memory, the parts of a step, and the operators that take most
of its time. With spconv installed, SECOND and CenterPoint on voxels are measured with it as well.

OUT/session.json holds all of it; OUT/gpu_tests.xml the tests, OUT/NAME.json each model, OUT/NAME.trace.json.gz with
`--traces` a trace for chrome://tracing. The exit code is 1 if a step failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

MODELS = {
    "pointpillars": "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py",
    "second": "second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py",
    "centerpoint_pillar": "centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
    "centerpoint_voxel": "centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
}
TINY = {
    "pointpillars": "demo/pointpillars_kitti_frames.py",
    "second": "demo/second_kitti_frames.py",
    "centerpoint_pillar": "demo/centerpoint_kitti_frames.py",
    "centerpoint_voxel": "demo/centerpoint_nuscenes_frame.py",
}
MIDDLE_ENCODER = {"second": "middle_encoder", "centerpoint_voxel": "pts_middle_encoder"}
NUM_OPERATORS = 15


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=9.5, help="time for all steps")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each figure")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL")
    parser.add_argument("--no-tests", action="store_true", help="leave out `pytest -m gpu`")
    parser.add_argument("--traces", action="store_true", help="keep a trace of each model")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on a CPU, to see that the script works")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "CONFIG"), help=argparse.SUPPRESS)
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    args = make_parser().parse_args()
    if args.one:
        measure_one(args)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * args.minutes
    session: dict[str, Any] = {"steps": {}, "left_out": []}
    for name, command in commands(args):
        remaining = deadline - time.monotonic()
        if remaining < 5:
            session["left_out"].append(name)
            continue
        print(f"{name}: at most {remaining:.0f} s", flush=True)
        step = session["steps"][name] = run_step(command, remaining)
        if name == "gpu_tests":
            step.update(read_tests(args.out / "gpu_tests.xml"))
        elif step["exit_code"] == 0:
            step.update(json.loads((args.out / f"{name}.json").read_text()))
        (args.out / "session.json").write_text(json.dumps(session, indent=1))  # what is there stays if time runs out
        print(describe(name, step), flush=True)
    if session["left_out"]:
        print("left out for time:", ", ".join(session["left_out"]))
    (args.out / "session.json").write_text(json.dumps(session, indent=1))
    return int(any(step["exit_code"] for step in session["steps"].values()))


def commands(args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Name and command of each step, the most important first."""
    found: list[tuple[str, list[str]]] = []
    if not args.no_tests:
        files = sorted(str(path) for path in (REPO / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
        report = f"--junitxml={args.out / 'gpu_tests.xml'}"
        # Without a GPU all of them are skipped.
        found.append(
            ("gpu_tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--timeout=120", report, *files])
        )
    configs = TINY if args.dry_run else MODELS
    common = [sys.executable, str(Path(__file__)), "--out", str(args.out), "--seconds", str(args.seconds)]
    common += ["--dry-run"] * args.dry_run + ["--traces"] * args.traces
    found += [(name, [*common, "--one", name, configs[name]]) for name in args.models]
    if find_spec("spconv") and not args.dry_run:
        for name in (name for name in args.models if name in MIDDLE_ENCODER):
            found.append((f"{name}_spconv", [*common, "--one", name, configs[name], "--backend", "spconv"]))
    return found


def run_step(command: list[str], timeout_s: float) -> dict[str, Any]:
    """Run a process; 124 stands for one that had no time left."""
    begin = time.monotonic()
    try:
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=timeout_s, check=False)
        code, text = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        code, text = 124, str(error)
    step: dict[str, Any] = {"exit_code": code, "wall_s": round(time.monotonic() - begin, 1)}
    if code:
        step["output"] = text[-3000:]
    return step


def read_tests(path: Path) -> dict[str, Any]:
    """Numbers of tests, and the names of those that failed."""
    if not path.is_file():
        return {}
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return {
        "tests": len(cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
        "failed": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
    }


def describe(name: str, step: dict[str, Any]) -> str:
    """One step's result for a terminal."""
    if step["exit_code"]:
        return f"  FAILED with {step['exit_code']}: {step.get('output', '')[-600:]}"
    if "speed" not in step:
        return f"  {step.get('tests', 0)} tests, {step.get('skipped', 0)} skipped, failed: {step.get('failed', [])}"
    lines = []
    for what in ("training", "training_amp", "inference"):
        if speed := step["speed"][what]:
            costs = ", ".join(f"{part} {ms:.1f}" for part, ms in list(speed["costs_ms"].items())[:5])
            lines.append(
                f"  {what}, batch {speed['batch_size']}: {speed['samples_per_s']:.2f} samples/s, "
                f"{speed['step_ms']['p50']:.1f} ms, {speed['peak_memory_mb']:.0f} MB; ms: {costs}"
            )
    lines += [f"  {row['ms_per_step']:9.3f} ms  {row['operator']}" for row in step["operators"][:5]]
    return "\n".join(lines)


def measure_one(args: argparse.Namespace) -> None:
    """Measure one model, and write OUT/NAME.json."""
    from dataclasses import asdict

    from raydet3d import benchmark
    from raydet3d.cli import read_config

    name, config = args.one
    flags = ["--only", "training", "inference", "--seconds", str(args.seconds)]
    flags += (
        ["--device", "cpu", "--batch-size", "1", "--threads", "1", "--no-amp"] if args.dry_run else ["--device", "cuda"]
    )
    if args.backend:
        flags += ["--cfg-options", f"model.{MIDDLE_ENCODER[name]}.backend={args.backend}"]
    given = benchmark.make_parser().parse_args([str(REPO / "configs" / config), *flags])
    cfg = read_config(given)
    report = benchmark.measure(cfg, given)
    label = f"{name}_{args.backend}" if args.backend else name
    trace = args.out / f"{label}.trace.json.gz" if args.traces else None
    result = {"speed": asdict(report), "operators": profile_operators(cfg, given, trace)}
    (args.out / f"{label}.json").write_text(json.dumps(result, indent=1))


def profile_operators(cfg: Any, given: argparse.Namespace, trace: Path | None) -> list[dict[str, Any]]:
    """Operators of a training step by the time they take themselves: on the GPU, or on the CPU in a dry run."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from raydet3d.runtime.build import build_optim
    from raydet3d.runtime.example_frames import example_frames
    from raydet3d.runtime.model_profile import build_detector

    device = torch.device(given.device)
    model = build_detector(cfg)
    model.init_weights()
    model.to(device).train()
    size = given.batch_size or int(cfg["train_dataloader"].get("batch_size", 1))
    frames = example_frames(cfg, model, size, mode="train")
    wrapper = build_optim(cfg, model)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    steps = 3
    for _ in range(2):
        model.train_step(frames.batch(size), wrapper)
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            model.train_step(frames.batch(size), wrapper)
        if device.type == "cuda":
            torch.cuda.synchronize()
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))[:NUM_OPERATORS]
    return [
        {
            "operator": event.key[:120],
            "ms_per_step": getattr(event, key) / 1e3 / steps,
            "calls_per_step": event.count / steps,
        }
        for event in events
    ]


if __name__ == "__main__":
    sys.exit(main())
