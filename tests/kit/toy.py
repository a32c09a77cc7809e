"""A toy model, data set, metric and visualizer, and a config of them: a whole run in a fraction of a second."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from raydet3d.config import Config
from raydet3d.data.seeded import current_epoch
from raydet3d.hooks import Hook
from raydet3d.metrics import BaseMetric


class ToySample:
    """A prediction with its target and its id."""

    def __init__(self, sample_idx: int, target: Tensor) -> None:
        self.sample_idx = sample_idx
        self.target = target
        self.prediction: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"sample_idx": self.sample_idx, "target": self.target, "prediction": self.prediction}


class ToyData:
    """y = x.w + noise of the augmentation, which draws from all three global generators.

    Args:
        size: Number of samples.
        noise: Strength of the augmentation; 0 for validation.
    """

    metainfo: ClassVar[dict[str, Any]] = {"classes": ("toy",)}

    def __init__(self, size: int = 24, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(size, 6, generator=generator)
        self.y = self.x @ torch.arange(6.0) / 6
        self.noise = noise
        self.off: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.x)

    def disable_transform(self, name: str, from_epoch: int) -> int:
        self.off[name] = from_epoch
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        x = self.x[index]
        if self.noise:
            x = x + self.noise * torch.from_numpy(np.random.randn(6)).float()
            x = x * (1 + self.noise * random.random()) + self.noise * torch.randn(6)
        if current_epoch() >= self.off.get("ObjectSample", 10**9):
            x = x * 0.5
        return {"inputs": x, "data_samples": ToySample(index, self.y[index])}


class ToyModel(nn.Module):
    """Two layers with dropout between; ``norm`` adds BatchNorm.

    Args:
        dropout: Rate.
        norm: Whether there is BatchNorm.
        poison: Iterations (counted by its own calls) whose loss is NaN.
    """

    def __init__(self, dropout: float = 0.3, norm: bool = False, poison: Sequence[int] = ()) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.bbox_head = nn.Linear(16, 1)
        self.poison = set(poison)
        self.calls = 0

    def init_weights(self) -> None:
        for layer in (self.first, self.bbox_head):
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.zeros_(layer.bias)

    def data_preprocessor(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        return {"inputs": torch.stack(list(data["inputs"])), "data_samples": data["data_samples"]}

    def forward(self, inputs: Tensor, data_samples: Sequence[ToySample], mode: str = "tensor") -> Any:
        out = self.bbox_head(self.drop(self.norm(self.first(inputs)).relu())).squeeze(1)
        if mode == "predict":
            for sample, value in zip(data_samples, out, strict=True):
                sample.prediction = value
            return list(data_samples)
        if mode == "tensor":
            return out
        self.calls += 1
        target = torch.stack([sample.target for sample in data_samples])
        loss = (out - target).square().mean()
        if self.calls in self.poison:
            loss = loss * float("nan")
        return {"loss_fit": loss, "error": (out - target).abs().mean()}

    @staticmethod
    def parse_losses(losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
        return total, {"loss": total.detach(), **{name: value.detach() for name, value in losses.items()}}

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        with optim_wrapper.optim_context(self):
            losses = self(**self.data_preprocessor(data, True), mode="loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Any) -> list[ToySample]:
        return self(**self.data_preprocessor(data), mode="predict")

    test_step = val_step


class SaveAt(Hook):
    """Saves after the given iterations.

    Args:
        iters: Counts of finished iterations.
    """

    priority = "VERY_LOW"

    def __init__(self, iters: Sequence[int]) -> None:
        self.iters = set(iters)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 in self.iters:
            runner.save_checkpoint(runner.work_dir, f"iter_{runner.iter + 1}.pth", point=True)


class ToyMetric(BaseMetric):
    """Mean absolute error, and how many samples were seen; draws random numbers, as no metric should."""

    default_prefix = "toy"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        np.random.rand(3), random.random(), torch.rand(2)
        self.results += [(s["sample_idx"], float((s["prediction"] - s["target"]).abs())) for s in data_samples]

    def compute_metrics(self, results: list[tuple[int, float]]) -> dict[str, float]:
        errors = [error for _, error in results]
        return {"mAE_loss": float(np.mean(errors)), "AP": 100 / (1 + float(np.mean(errors))), "count": len(errors)}


def toy_cfg(work_dir: Path | str, **changes: Any) -> Config:
    """A config of toys; ``changes`` replace values, with ``__`` for the dot in the key."""
    loader = {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "dataset": {"type": ToyData},
    }
    quiet = {**loader, "sampler": {"type": "DefaultSampler", "shuffle": False}, "dataset": {"type": ToyData, "size": 9}}
    quiet["dataset"]["noise"] = 0.0
    cfg = Config(
        {
            "work_dir": str(work_dir),
            "model": {"type": ToyModel},
            "train_dataloader": loader,
            "val_dataloader": quiet,
            "test_dataloader": quiet,
            "train_cfg": {"by_epoch": True, "max_epochs": 3, "val_interval": 1},
            "val_cfg": {},
            "test_cfg": {},
            "val_evaluator": {"type": ToyMetric},
            "test_evaluator": {"type": ToyMetric},
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "AdamW", "lr": 0.01},
                "clip_grad": {"max_norm": 10},
            },
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 10},
                {"type": "CosineAnnealingLR", "T_max": 3, "end": 3, "by_epoch": True, "convert_to_iter_based": True},
            ],
            "default_hooks": {
                "logger": {"type": "LoggerHook", "interval": 5},
                "checkpoint": {"type": "CheckpointHook", "interval": 1},
            },
            "visualizer": {"type": "Visualizer", "vis_backends": []},
            "randomness": {"seed": 3},
        }
    )
    return with_changes(cfg, **changes)


def with_changes(cfg: Config, **changes: Any) -> Config:
    """Replace values of a config in place, with ``__`` for the dot in the key."""
    for key, value in changes.items():
        place: Any = cfg
        *path, last = key.split("__")
        for part in path:
            place = place[part]
        place[last] = value
    return cfg
