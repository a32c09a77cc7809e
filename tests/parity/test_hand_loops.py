"""The optim wrappers against training loops written out by hand in plain torch: all weights equal in every bit.

Clipping by each norm and by value, accumulation with its shorter last group, and mixed precision on the CPU, each with
each other; and, between two processes, that an iteration without an update exchanges nothing.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from raydet3d import dist
from raydet3d.optim import build_optim_wrapper
from tests.kit.optim import batches, same, small_model, train, weights
from tests.kit.spawn import run_ranks

STEPS = 11  # no multiple of 2, 3 or 4: each accumulation has a tail
CLIPS: dict[str, dict[str, Any] | None] = {
    "no clip": None,
    "norm 2": {"max_norm": 0.3, "norm_type": 2},
    "norm 2 by default": {"max_norm": 0.3},
    "norm 1": {"max_norm": 0.5, "norm_type": 1},
    "norm inf": {"max_norm": 0.1, "norm_type": math.inf},
    "norm 'inf'": {"max_norm": 0.1, "norm_type": "inf"},
    "norm 3": {"type": "norm", "max_norm": 0.2, "norm_type": 3.0},
    "value": {"type": "value", "clip_value": 0.05},
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"type": "OptimWrapper"},
    "bfloat16": {"type": "AmpOptimWrapper", "dtype": "bfloat16"},
    "float16 dynamic": {
        "type": "AmpOptimWrapper",
        "dtype": "float16",
        "loss_scale": {"init_scale": 64.0, "growth_interval": 2},
    },
    "float16 static": {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": 128.0},
}


def by_hand(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: list[Any],
    *,
    clip: dict[str, Any] | None,
    counts: int,
    precision: dict[str, Any],
) -> None:
    """What the wrappers stand for."""
    dtype = getattr(torch, precision.get("dtype", "float32"))
    scale = precision.get("loss_scale")
    scaler = None
    if scale is not None:
        scaler = torch.amp.GradScaler("cpu", **(scale if isinstance(scale, dict) else {"init_scale": scale}))
    whole = len(data) // counts * counts
    for i, (x, y) in enumerate(data):
        with torch.autocast("cpu", dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32):
            loss = (model(x).float() - y).square().mean()
        loss = loss / (counts if i < whole else len(data) - whole)
        (scaler.scale(loss) if scaler else loss).backward()
        if (i + 1) % counts and i + 1 < len(data):
            continue
        if scaler and clip:
            scaler.unscale_(optimizer)
        if clip and "clip_value" in clip:
            torch.nn.utils.clip_grad_value_(model.parameters(), clip["clip_value"])
        elif clip:
            norm = float(clip.get("norm_type", 2))
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip["max_norm"], norm_type=norm)
        if scaler:
            scaler.step(optimizer)
            scaler.update(scale if not isinstance(scale, dict) else None)
        else:
            optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("counts", [1, 2, 3, 4])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("clip", CLIPS)
def test_is_the_loop_by_hand(clip: str, precision: str, counts: int) -> None:
    optimizer = {"type": "AdamW", "lr": 0.02, "weight_decay": 0.1}
    model, other = small_model(), small_model()
    cfg = {"optimizer": optimizer, "clip_grad": CLIPS[clip], "accumulative_counts": counts, **PRECISIONS[precision]}
    wrapper = build_optim_wrapper(model, cfg)
    wrapper.initialize_count_status(model, 0, STEPS)
    train(model, wrapper, batches(STEPS))
    reference = torch.optim.AdamW(other.parameters(), lr=0.02, weight_decay=0.1)
    by_hand(other, reference, batches(STEPS), clip=CLIPS[clip], counts=counts, precision=PRECISIONS[precision])
    assert same(weights(model), weights(other))
    assert not same(weights(model), weights(small_model()))


@pytest.mark.parametrize(("counts", "steps"), [(3, 10), (4, 11), (5, 5), (5, 3), (2, 7)])
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
def test_the_last_group_is_divided_by_its_own_length(counts: int, steps: int, kind: str) -> None:
    model, other = small_model(), small_model()
    wrapper = build_optim_wrapper(
        model, {"optimizer": {"type": kind, "lr": 0.02}, "accumulative_counts": counts, "clip_grad": {"max_norm": 1.0}}
    )
    wrapper.initialize_count_status(model, 0, steps)
    train(model, wrapper, batches(steps))
    reference = getattr(torch.optim, kind)(other.parameters(), lr=0.02)
    by_hand(other, reference, batches(steps), clip={"max_norm": 1.0}, counts=counts, precision={})
    assert same(weights(model), weights(other))


@pytest.mark.parametrize("norm_type", [1, 2, math.inf])
def test_the_norm_that_is_logged_is_the_one_before_clipping(norm_type: float) -> None:
    model = small_model()
    clip = {"max_norm": 1e-3, "norm_type": norm_type}
    wrapper = build_optim_wrapper(model, {"optimizer": {"type": "SGD", "lr": 0.0}, "clip_grad": clip})
    seen: list[float] = []
    wrapper.on_grad_norm(lambda name, norm: seen.append(norm.item()))
    train(model, wrapper, batches(2))
    expected = []
    for x, y in batches(2):
        model.zero_grad()
        (model(x) - y).square().mean().backward()
        flat = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        expected.append(torch.linalg.vector_norm(flat, norm_type).item())
    assert seen == pytest.approx(expected, rel=1e-5)


def _exchanges(counts: int, kind: str) -> tuple[list[int], list[Any]]:
    """How often gradients were exchanged in each of seven iterations."""
    model = small_model()
    wrapper = build_optim_wrapper(
        model, {"type": kind, "optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": counts}
    )
    parallel = DistributedDataParallel(model)
    seen = [0]

    def count(state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, and wants them its own way
        seen[-1] += 1
        return allreduce_hook(None, bucket)

    parallel.register_comm_hook(None, count)
    wrapper.initialize_count_status(parallel, 0, 7)
    train(parallel, wrapper, batches(7, seed=dist.get_rank()), after=lambda i: seen.append(0))
    return seen[:-1], [w.tolist() for w in weights(model)]


def _both(kinds: list[str]) -> list[Any]:
    return [_exchanges(counts, kind) for counts, kind in itertools.product((1, 3), kinds)]


def test_no_exchange_between_ranks_on_iterations_without_an_update() -> None:
    kinds = ["OptimWrapper", "AmpOptimWrapper"]
    first, second = run_ranks(_both, 2, kinds)
    expected = {1: [1] * 7, 3: [0, 0, 1, 0, 0, 1, 1]}  # the tail of one iteration is a step too
    for (counts, _), (ours, mine), (theirs, others) in zip(
        itertools.product((1, 3), kinds), first, second, strict=True
    ):
        assert [bool(n) for n in ours] == [bool(n) for n in expected[counts]]
        assert ours == theirs
        assert mine == others
