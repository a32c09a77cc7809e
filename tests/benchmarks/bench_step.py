"""Seconds and memory of PointPillars' training step, whole and by part; prints JSON.

    python tests/benchmarks/bench_step.py [--config reduced|published|FILE.py] [--batch 2] [--threads 1] [--repeat 20]
                                          [--amp] [--device cpu|cuda] [--clock wall|cpu]

Each part runs on the detached output of the one before it, forward and then backward, so that the parts add up to the
step (but for the optimiser's). Times are medians over `--repeat` steps after two that do not count; `min` is what an
undisturbed machine takes. Frames are made up, with the density of a scanner's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydet3d.config import Config
from raydet3d.models import VoxelNet
from raydet3d.registry import MODELS
from tests.kit.pointpillars import a_frame, published, reduced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="reduced", help="reduced, published, or a config file with a model")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--points", type=int, default=15000, help="points of a frame beside its objects'")
    parser.add_argument("--objects", type=int, default=10, help="objects of a frame")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a machine that others use"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    known = {"reduced": reduced, "published": published}
    cfg = known[args.config]() if args.config in known else Config.fromfile(args.config).to_dict()["model"]
    model: VoxelNet = MODELS.build(cfg)
    model.init_weights()
    model.to(args.device)
    half = cfg["data_preprocessor"]["voxel_layer"]["point_cloud_range"][3] / 2
    generator = torch.Generator().manual_seed(0)
    frames = [a_frame(generator, half=half, objects=args.objects, background=args.points) for _ in range(args.batch)]
    data = {"inputs": {"points": [f[0] for f in frames]}, "data_samples": [f[1] for f in frames]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    clock = Clock(args.device, args.clock)
    times: dict[str, list[float]] = defaultdict(list)
    for index in range(args.repeat + 2):
        for name, value in one_step(model, data, optimizer, clock, args.amp).items():
            if index >= 2:
                times[name].append(value * 1e3)
    parts = {name: {"median": statistics.median(v), "min": min(v)} for name, v in times.items() if name != "step"}
    whole = times["step"]
    result: dict[str, Any] = {
        "config": args.config,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": args.batch,
        "threads": args.threads,
        "amp": args.amp,
        "clock": args.clock,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "pillars": len(model.data_preprocessor(data, True)["inputs"]["voxels"]["coors"]),
        "step_ms": {"median": statistics.median(whole), "min": min(whole)},
        "samples_per_s": args.batch / statistics.median(whole) * 1e3,
        "parts_ms": parts,
        "peak_memory_mib": memory_mib(args.device),
    }
    print(json.dumps(result, indent=1, default=lambda x: round(x, 3)))


class Clock:
    """Times a block of code; on a GPU it waits for the device on both sides."""

    def __init__(self, device: str, kind: str) -> None:
        self.now = time.perf_counter if kind == "wall" else time.process_time
        self.wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None

    @contextmanager
    def __call__(self, times: dict[str, float], name: str) -> Iterator[None]:
        self.wait()
        begin = self.now()
        yield
        self.wait()
        times[name] = times.get(name, 0.0) + self.now() - begin


def one_step(
    model: VoxelNet, data: dict[str, Any], optimizer: torch.optim.Optimizer, clock: Clock, amp: bool
) -> dict[str, float]:
    """Seconds of a whole step ("step"), and of its parts, timed in a second one."""
    times: dict[str, float] = {}
    device = model.data_preprocessor.device.type
    with clock(times, "step"):
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            losses = model(**model.data_preprocessor(data, True), mode="loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    with clock(times, "preprocess"):
        ready = model.data_preprocessor(data, True)
    voxels = ready["inputs"]["voxels"]
    head = model.bbox_head
    chain: list[tuple[str, Callable[[Any], Any]]] = [
        ("voxel_encoder", lambda _: model.voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])),
        ("middle_encoder", lambda x: model.middle_encoder(x, voxels["coors"], len(data["data_samples"]))),
        ("backbone", model.backbone),
        ("neck", model.neck),
        ("head", lambda maps: sum(loss for (loss,) in head.loss(maps, ready["data_samples"]).values())),
    ]
    given: Any = None
    links: list[tuple[str, Any, Any]] = []
    for name, part in chain:
        with clock(times, f"{name} forward"), torch.autocast(device, torch.bfloat16, enabled=amp):
            made = part(given)
        links.append((name, given, made))
        given = cut(made)
    grad: Any = [torch.ones_like(links[-1][2])]
    for name, before, made in reversed(links):
        with clock(times, f"{name} backward"):
            torch.autograd.backward(listed(made), grad)
        grad = [one.grad for one in listed(before)] if before is not None else None
    with clock(times, "optimizer"):
        optimizer.step()
        optimizer.zero_grad()
    maps = listed(links[-1][1])
    with clock(times, "targets (in head forward)"):
        head.sparse_targets(tuple(maps[0].shape[2:]), ready["data_samples"], maps[0].device)
    return times


def listed(maps: Any) -> list[torch.Tensor]:
    return [maps] if isinstance(maps, torch.Tensor) else list(maps)


def cut(maps: Any) -> Any:
    """The same values, as the beginning of another graph."""
    if isinstance(maps, torch.Tensor):
        return maps.detach().requires_grad_()
    return [one.detach().requires_grad_() for one in maps]


def memory_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
