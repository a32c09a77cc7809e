"""Time of SECOND's middle encoder by stage, as JSON: `python tests/benchmarks/bench_sparse_conv.py [--gpu]`.

Voxels are those of a real KITTI frame where `../shared/data` is there, else of a made-up sweep; `--training` uses the
16,000 voxels of training instead of the 40,000 of testing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydet3d.models.layers.sparse_conv3d import SparseConvTensor
from raydet3d.registry import MODELS
from tests.kit.lidar import model_of
from tests.kit.shared import KITTI


def points_of_a_frame() -> torch.Tensor:
    """Points in the camera's view, (N, 4)."""
    from tests.benchmarks.bench_ops import cloud

    file = KITTI / "training" / "velodyne" / "000002.bin"
    if not file.is_file():
        return torch.from_numpy(cloud(np.random.default_rng(0), 126_900))
    points = torch.from_numpy(np.fromfile(file, np.float32).reshape(-1, 4))
    return points[(points[:, 0] > 0) & (points[:, 1].abs() < points[:, 0])]


class Clock:
    """Adds up the time of named parts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, list[float]] = {}
        self.begin = 0.0

    def start(self) -> None:
        """Begin a part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.begin = time.perf_counter()

    def stop(self, name: str) -> None:
        """End a part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.setdefault(name, []).append(time.perf_counter() - self.begin)
        self.begin = time.perf_counter()

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part."""
        return {name: round(float(np.median(values[2:])) * 1e3, 1) for name, values in self.times.items()}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if args.gpu else "cpu")
    model: Any = MODELS.build(model_of("second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py"))
    model.init_weights()
    model.to(device).train()
    voxels = model.data_preprocessor(
        {"inputs": {"points": [points_of_a_frame().to(device)]}, "data_samples": None}, args.training
    )["inputs"]["voxels"]
    features = model.voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
    encoder = model.middle_encoder
    clock, stages = Clock(device), Clock(device)
    for _ in range(args.repeats + 2):
        stages.start()
        x = encoder.conv_input(SparseConvTensor(features, voxels["coors"], encoder.sparse_shape, 1))
        stages.stop("conv_input")
        for name, stage in encoder.encoder_layers.named_children():
            x = stage(x)
            stages.stop(name)
        encoder.conv_out(x).dense()
        stages.stop("conv_out and dense map")
    for _ in range(args.repeats + 2):
        clock.start()
        with torch.no_grad():
            encoder(features, voxels["coors"], 1)
        clock.stop("forward")
        out = encoder(features, voxels["coors"], 1)
        grad = torch.ones_like(out)
        clock.start()
        encoder(features, voxels["coors"], 1).backward(grad)
        clock.stop("forward and backward")
    result = {
        "device": torch.cuda.get_device_name() if args.gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "voxels": len(features),
        "median_ms": {**clock.medians(), **stages.medians()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
