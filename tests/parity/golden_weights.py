"""Compare final weights of this checkout and another one, bit for bit.

    python -m tests.parity.golden_weights --baseline CHECKOUT [--no-demo]

Both checkouts train the same configs (toy runs with EMA, accumulation, bfloat16 autocast, two param groups, a momentum
schedule; 100 iterations of the demo) with `--workers 0`, one thread and one seed, each in processes of its own. Bits
depend on the CPU, so nothing is stored: both sides run on the machine at hand.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]

PARTS = """
import numpy as np
import torch
from torch import nn

from raydet3d.registry import DATASETS, MODELS


@DATASETS.register_module()
class GoldenData:
    metainfo = {"classes": ("toy",)}

    def __init__(self):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(200, 6, generator=generator)
        self.y = self.x @ torch.arange(6.0) / 6

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.from_numpy(np.random.randn(6)).float() + torch.randn(6)
        return {"inputs": self.x[index] + 0.1 * noise, "data_samples": self.y[index]}


@MODELS.register_module()
class GoldenModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.bbox_head = nn.Linear(16, 1)

    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self):
            out = self.bbox_head(self.backbone(torch.stack(list(data["inputs"])))).squeeze(1)
            loss = (out.float() - torch.stack(list(data["data_samples"]))).square().mean()
        optim_wrapper.update_params(loss)
        return {"loss": loss}
"""

BASE = """
custom_imports = dict(imports=['golden_parts'], allow_failed_imports=False)
model = dict(type='GoldenModel')
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(type='GoldenData'))
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.01), clip_grad=dict(max_norm=1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', T_max=2, end=2, by_epoch=True, convert_to_iter_based=True)]
randomness = dict(seed=0)
"""

TOYS = {
    "plain": "",
    "ema": "custom_hooks = [dict(type='EMAHook', momentum=0.05)]",
    "accumulation": "optim_wrapper['accumulative_counts'] = 3",
    "bfloat16": "optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')",
    "two groups": (
        "optim_wrapper['paramwise_cfg'] = dict(custom_keys={'backbone': dict(lr_mult=0.1)}, bias_decay_mult=0.0)"
    ),
    "momentum": (
        "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))\n"
        "param_scheduler.append(dict(type='CosineAnnealingMomentum', T_max=2, eta_min=0.8, end=2, by_epoch=True,"
        " convert_to_iter_based=True))"
    ),
}


def train(checkout: Path, folder: Path, config: str, *options: str) -> dict[str, torch.Tensor]:
    """Train a config with the code of a checkout and return every tensor of its weights."""
    work_dir = folder / "run"
    command = [sys.executable, "-m", "raydet3d.train", config, "--workers", "0", "--work-dir", str(work_dir)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    env = {**os.environ, **threads, "PYTHONPATH": f"{checkout}{os.pathsep}{folder}"}
    if options:
        command += ["--cfg-options", *options]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{checkout}: {config} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    newest = work_dir / (work_dir / "last_checkpoint").read_text().strip()
    state = torch.load(newest, map_location="cpu", weights_only=True)
    return dict(_tensors({key: state[key] for key in ("state_dict", "ema_state_dict") if key in state}, ""))


def _tensors(value: object, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{path}.{key}" if path else str(key))


def compare(name: str, ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Print one row; tell whether every tensor has the same name and the same bits."""
    names = ours.keys() == theirs.keys()
    differing = [key for key in ours.keys() & theirs.keys() if not torch.equal(ours[key], theirs[key])]
    worst = max((float((ours[key].double() - theirs[key].double()).abs().max()) for key in differing), default=0.0)
    same = names and not differing
    print(f"{name:<14}{len(ours):>5} tensors  {'equal' if same else f'{len(differing)} differ by up to {worst:.3g}'}")
    return same


def main() -> int:
    """Run every case on both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--baseline", type=Path, required=True, help="another checkout of this project")
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo (a minute a side)")
    args = parser.parse_args()
    checkouts = (ROOT, args.baseline.resolve())
    equal = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, extra in TOYS.items():
            sides = []
            for number, checkout in enumerate(checkouts):
                folder = Path(temporary, f"{name.replace(' ', '_')}_{number}")
                folder.mkdir()
                (folder / "golden_parts.py").write_text(PARTS)
                (folder / "config.py").write_text(f"{BASE}\n{extra}\n")
                sides.append(train(checkout, folder, str(folder / "config.py")))
            equal.append(compare(name, *sides))
        if not args.no_demo:
            config = "configs/demo/pointpillars_town.py"
            options = ("train_cfg.max_epochs=1", "train_cfg.val_interval=2", "train_dataloader.batch_size=4")
            sides = []
            for number, checkout in enumerate(checkouts):
                folder = Path(temporary, f"demo_{number}")
                folder.mkdir()
                sides.append(train(checkout, folder, config, *options, f"data_root={temporary}/town/"))
            equal.append(compare("demo", *sides))
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
