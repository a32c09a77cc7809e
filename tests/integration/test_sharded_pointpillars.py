"""PointPillars, sharded over two gloo ranks: the losses of DistributedDataParallel, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raydet3d import dist
from raydet3d.dist import unwrapped
from raydet3d.optim import build_optim_wrapper
from raydet3d.registry import MODELS
from raydet3d.runtime.build import wrap_model
from raydet3d.runtime.rng import set_seed
from tests.kit.pointpillars import a_frame, reduced
from tests.kit.spawn import run_ranks

OPTIM = {
    "type": "OptimWrapper",
    "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.01},
    "clip_grad": {"max_norm": 35},
}


def losses(wrapper: dict[str, Any] | None, steps: int) -> tuple[list[float], int]:
    """Losses of a few steps on made-up frames of this rank's own, and how many numbers this rank keeps."""
    torch.set_num_threads(1)
    set_seed(0)
    cfg: dict[str, Any] = {"model_wrapper_cfg": wrapper} if wrapper else {}
    model: Any = wrap_model(MODELS.build(reduced()), cfg, torch.device("cpu"))
    if wrapper is None:
        unwrapped(model).init_weights()  # type: ignore[operator]
    optim = build_optim_wrapper(unwrapped(model), OPTIM)
    out = []
    for step in range(steps):
        points, sample = a_frame(torch.Generator().manual_seed(10 * step + dist.get_rank()))
        batch = {"inputs": {"points": [points]}, "data_samples": [sample]}
        loss = model.train_step(batch, optim)["loss"]
        dist.all_reduce(loss, "mean")
        out.append(float(loss))
    kept = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters())
    return out, kept


@pytest.mark.slow
def test_pointpillars_sharded_over_two_ranks_has_the_losses_of_ddp() -> None:
    plain, _ = run_ranks(losses, 2, None, 6, timeout_s=300)
    sharded, other = run_ranks(
        losses, 2, {"type": "MMFullyShardedDataParallel", "min_params": 10_000}, 6, timeout_s=300
    )
    assert sharded[0] == pytest.approx(plain[0], rel=2e-3)
    assert sharded[0][0] == pytest.approx(plain[0][0], rel=1e-5)
    assert plain[0][-1] < plain[0][0]
    assert sharded[1] + other[1] == plain[1]
    assert sharded[1] < 0.7 * plain[1]
