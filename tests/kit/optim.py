"""The toy model of the stored optimization tables, a reader for them, and a small training loop."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.optim import OptimWrapper

PARITY = Path(__file__).resolve().parent.parent / "parity"


def read_table(name: str) -> dict[str, Any]:
    """A stored table of the numbers that MMEngine gives."""
    with gzip.open(PARITY / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        table: dict[str, Any] = json.load(file)
    return table


def toy_model() -> nn.Module:
    """The model of the tables: one of each kind of layer that a paramwise rule knows."""
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4))
    model.img_backbone = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.GroupNorm(2, 4))
    model.bbox_head = nn.Module()
    model.bbox_head.decoder_layers = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)])
    model.bbox_head.cls = nn.Linear(4, 2)
    model.scale = nn.Parameter(torch.ones(3))
    model.frozen = nn.Linear(2, 2).requires_grad_(False)
    model.inorm = nn.InstanceNorm2d(4, affine=True)
    return model


def small_model(seed: int = 0) -> nn.Sequential:
    """Two layers and a norm without running statistics."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 1))


def batches(count: int, size: int = 4, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Inputs (size, 3) and targets (size, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]


def train(
    model: nn.Module,
    wrapper: OptimWrapper,
    data: list[tuple[Tensor, Tensor]],
    *,
    after: Callable[[int], None] | None = None,
) -> None:
    """One step a batch, as a detector's ``train_step`` takes it."""
    for i, (x, y) in enumerate(data):
        with wrapper.optim_context(model):
            loss = (model(x).float() - y).square().mean()
        wrapper.update_params(loss)
        if after is not None:
            after(i)


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of the parameters."""
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal in every bit."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
