"""ZeroRedundancyOptimizer against the plain optimizer it shares out: steps, groups, states, a run's files (D6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.optim import build_optim_wrapper, build_param_scheduler
from raydet3d.runtime import assemble
from tests.kit.optim import batches, small_model, train, weights
from tests.kit.spawn import run_ranks
from tests.kit.toy import ToyModel, toy_cfg

PLAIN = {"type": "AdamW", "lr": 0.05, "weight_decay": 0.1}
ZERO = {**PLAIN, "type": "ZeroRedundancyOptimizer", "optimizer_type": "AdamW"}
RULES = {"bias_lr_mult": 2.0, "norm_decay_mult": 0.0}
SCHEDULE = [
    {"type": "LinearLR", "start_factor": 0.5, "end": 4, "by_epoch": False},
    {"type": "ExponentialLR", "gamma": 0.9},
]


def run(optimizer: dict[str, Any], **cfg: Any) -> tuple[list[Any], Any, Any]:
    model = small_model()
    wrapper = build_optim_wrapper(model, {"optimizer": optimizer, "paramwise_cfg": RULES, **cfg})
    schedulers = build_param_scheduler(SCHEDULE, wrapper, epoch_length=2, max_epochs=9, max_iters=18)
    whole: Any = DistributedDataParallel(model) if dist.get_world_size() > 1 else model
    train(whole, wrapper, batches(6), after=lambda i: [s.step() for s in schedulers])
    return weights(model), wrapper, model


def both(cfg: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    ours, wrapper, _ = run(ZERO, **cfg)
    theirs, plain, _ = run(PLAIN, **cfg)
    held = sum(v.numel() for state in wrapper.optimizer.state.values() for k, v in state.items() if k != "step")
    full = sum(v.numel() for state in plain.optimizer.state.values() for k, v in state.items() if k != "step")
    state, expected = wrapper.state_dict(), plain.state_dict()
    return {
        "weights": all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)),
        "held": held / full,
        "groups": state["param_groups"] == expected["param_groups"],
        "state": {
            slot: all(torch.equal(state["state"][slot][k], v) for k, v in value.items())
            for slot, value in expected["state"].items()
            if slot in state["state"]
        },
        "slots": len(expected["state"]),
        "lr": wrapper.get_lr() == plain.get_lr(),
    }


@pytest.mark.parametrize(
    ("world", "cfg"), [(1, {}), (2, {"clip_grad": {"max_norm": 0.5}, "accumulative_counts": 2}), (3, {})]
)
def test_equals_the_plain_optimizer_with_less_memory(world: int, cfg: dict[str, Any]) -> None:
    ranks = run_ranks(both, world, cfg) if world > 1 else [both(cfg)]
    for rank, seen in enumerate(ranks):
        assert seen["weights"]
        assert seen["groups"]
        assert seen["lr"]
        assert all(seen["state"].values())
        if rank == 0:
            assert len(seen["state"]) == seen["slots"]  # rank 0 has the whole
    assert sum(seen["held"] for seen in ranks) == pytest.approx(1.0)
    assert max(seen["held"] for seen in ranks) < 0.8 or world == 1


def work(folder: str, optimizer: dict[str, Any], resume: str, batch: int, epochs: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    changes = {
        "model": {"type": ToyModel, "dropout": 0.0},
        "optim_wrapper__optimizer": optimizer,
        "train_dataloader__batch_size": batch,
        "train_cfg__max_epochs": epochs,
    }
    runner = assemble(toy_cfg(Path(folder), **changes), resume=resume)
    runner.train()
    inner: Any = getattr(runner.model, "module", runner.model)
    return {name: value.numpy().copy() for name, value in inner.state_dict().items()}


def test_d6_checkpoints_are_whole_and_resume_with_another_world_size(tmp_path: Path) -> None:
    """D6: consolidation is collective, and every rank takes part in it; MMEngine asks rank 0 alone and hangs."""
    whole = run_ranks(work, 2, str(tmp_path / "whole"), ZERO, "", 2, 3, timeout_s=90)
    plain = run_ranks(work, 2, str(tmp_path / "plain"), PLAIN, "", 2, 3)
    for name, value in plain[0].items():
        assert (whole[0][name] == value).all(), name
    ours, theirs = (
        torch.load(tmp_path / d / "epoch_2.pth", weights_only=True)["optimizer"] for d in ("whole", "plain")
    )
    assert ours["state"].keys() == theirs["state"].keys()
    for slot, moments in theirs["state"].items():
        assert all(torch.equal(ours["state"][slot][key], value) for key, value in moments.items())
    # The same global batch on 1 rank, on 2, and without sharing out: all go on from the shared file.
    at = str(tmp_path / "whole" / "epoch_2.pth")
    for folder, again in (
        ("two", run_ranks(work, 2, str(tmp_path / "two"), ZERO, at, 2, 3)[0]),
        ("one", work(str(tmp_path / "one"), ZERO, at, 4, 3)),
        ("unshared", work(str(tmp_path / "unshared"), PLAIN, at, 4, 3)),
    ):
        for name, value in whole[0].items():
            assert abs(again[name] - value).max() < 1e-6, (folder, name)


def test_groups_added_or_split_later() -> None:
    model = small_model()
    wrapper = build_optim_wrapper(model, {"optimizer": ZERO, "paramwise_cfg": RULES})
    late = torch.nn.Parameter(torch.ones(2))
    wrapper.optimizer.add_param_group({"params": [late], "lr": 0.5})
    peaks = [0.1 * (i + 1) for i in range(len(wrapper.get_lr()["lr"]) + 1)]
    build_param_scheduler(
        {"type": "OneCycleLR", "eta_max": peaks, "total_steps": 5}, wrapper, epoch_length=1, max_epochs=5, max_iters=5
    )
    before = weights(model)
    (model(torch.ones(1, 3)).sum() + late.sum()).backward()
    wrapper.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert not torch.equal(late.detach(), torch.ones(2))


def test_optimizers_whose_state_exists_from_the_start() -> None:
    model, other = small_model(), small_model()
    shared = {"type": "ZeroRedundancyOptimizer", "optimizer_type": torch.optim.Adagrad, "lr": 0.1}
    ours = build_optim_wrapper(model, {"optimizer": shared})
    theirs = build_optim_wrapper(other, {"optimizer": {"type": "Adagrad", "lr": 0.1}})
    train(model, ours, batches(3))
    train(other, theirs, batches(3))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [
        ({"type": "ZeroRedundancyOptimizer", "lr": 0.1}, "optimizer_type"),
        ({"type": "ZeroRedundancyOptimizer", "optimizer_type": "AdamV", "lr": 0.1}, "did you mean 'Adam"),
        ({**ZERO, "weigth_decay": 0.1}, "did you mean 'weight_decay'"),
    ],
)
def test_refuses(optimizer: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        build_optim_wrapper(small_model(), {"optimizer": optimizer})
