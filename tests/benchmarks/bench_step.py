"""Seconds and memory of a detector's training step, whole and by part; prints JSON.

    python tests/benchmarks/bench_step.py [--config reduced|published|FILE.py] [--batch 2] [--threads 1] [--repeat 20]
                                          [--amp] [--device cpu|cuda] [--clock wall|cpu]
                                          [--compile backbone neck] [--contiguous]
    python tests/benchmarks/bench_step.py --config configs/second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py --batch 1

Each part runs on the detached output of the one before it, forward and then backward, so that the parts add up to the
step (but for the optimiser's). Times are medians over `--repeat` steps after two that do not count; `min` is what an
undisturbed machine takes. Frames are made up, with the density of a scanner's: a quarter circle of KITTI's, or, for
models of nuScenes, the full circle of ten sweeps.
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
from raydet3d.models.detectors.base import Base3DDetector
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
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
    parser.add_argument("--compile", nargs="+", default=[], metavar="PART", help="parts to compile, such as backbone")
    parser.add_argument("--contiguous", action="store_true", help="give the backbone maps that are not channels-last")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a machine that others use"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    known = {"reduced": reduced, "published": published}
    cfg = known[args.config]() if args.config in known else Config.fromfile(args.config).to_dict()["model"]
    model: Base3DDetector = MODELS.build(cfg)
    model.init_weights()
    model.to(args.device)
    for name in args.compile:
        model.get_submodule(name).compile()
    if args.contiguous:
        part_of(model, "backbone").register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    generator = torch.Generator().manual_seed(0)
    frames = [make_frame(cfg, generator, args.points, args.objects) for _ in range(args.batch)]
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


def part_of(model: Base3DDetector, name: str) -> Any:
    """A part of a detector by VoxelNet's name for it."""
    return getattr(model, name if hasattr(model, name) else f"pts_{name}")


def make_frame(
    cfg: dict[str, Any], generator: torch.Generator, points: int, objects: int
) -> tuple[torch.Tensor, Det3DDataSample]:
    """A frame for a model: of KITTI, or of nuScenes with so many points in each of ten sweeps."""
    span = cfg["data_preprocessor"]["voxel_layer"]["point_cloud_range"]
    if span[0] == 0:
        return a_frame(generator, half=span[3] / 2, objects=objects, background=points)
    clouds, boxes = [], []
    for quarter in range(4):
        for sweep in range(10):
            cloud, truth = a_frame(generator, half=span[3] / 2, objects=-(-objects // 4), background=points // 4)
            turn = torch.linalg.matrix_power(torch.tensor([[0.0, 1], [-1, 0]]), quarter)
            cloud = torch.cat((cloud, torch.full((len(cloud), 1), 0.05 * sweep)), dim=1)
            cloud[:, :2] = cloud[:, :2] @ turn
            clouds.append(cloud)
        rows = truth.gt_instances_3d.bboxes_3d.tensor.clone()
        rows[:, :2] = rows[:, :2] @ turn
        boxes.append(torch.cat((rows, torch.zeros(len(rows), 2)), dim=1))
    encoder = cfg["pts_voxel_encoder"]
    dims = encoder.get("in_channels", encoder.get("num_features", 5))
    rows = torch.cat(boxes)
    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(rows, box_dim=9),
        labels_3d=torch.randint(0, 10, (len(rows),), generator=generator),
    )
    whole = torch.cat(clouds)[:, :dims]
    return whole[torch.randperm(len(whole), generator=generator)], sample


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
    model: Base3DDetector, data: dict[str, Any], optimizer: torch.optim.Optimizer, clock: Clock, amp: bool
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
    head = part_of(model, "bbox_head")
    encoder, middle = part_of(model, "voxel_encoder"), part_of(model, "middle_encoder")
    chain: list[tuple[str, Callable[[Any], Any]]] = [
        ("voxel_encoder", lambda _: encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])),
        ("middle_encoder", lambda x: middle(x, voxels["coors"], len(data["data_samples"]))),
        ("backbone", part_of(model, "backbone")),
        ("neck", part_of(model, "neck")),
        ("head", lambda maps: model.parse_losses(head.loss(maps, ready["data_samples"]))[0]),
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
        if not listed(made)[0].requires_grad:  # the mean of a voxel's points
            break
        with clock(times, f"{name} backward"):
            torch.autograd.backward(listed(made), grad)
        grad = [one.grad for one in listed(before)] if before is not None else None
    with clock(times, "optimizer"):
        optimizer.step()
        optimizer.zero_grad()
    maps = listed(links[-1][1])
    if hasattr(head, "sparse_targets"):
        with clock(times, "targets (in head forward)"):
            head.sparse_targets(tuple(maps[0].shape[2:]), ready["data_samples"], maps[0].device)
    return times


def listed(maps: Any) -> list[torch.Tensor]:
    return [maps] if isinstance(maps, torch.Tensor) else list(maps)


def cut(maps: Any) -> Any:
    """The same values, as the beginning of another graph."""
    if isinstance(maps, torch.Tensor):
        return maps.detach().requires_grad_(maps.requires_grad)
    return [one.detach().requires_grad_(one.requires_grad) for one in maps]


def memory_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
