"""Runs of several real processes over gloo: against one process on the same global batch, and against themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d import dist
from raydet3d.dist import unwrapped
from raydet3d.hooks import Hook
from raydet3d.launch.signals import Stopped
from raydet3d.runtime import assemble
from tests.kit.spawn import run_ranks
from tests.kit.toy import SaveAt, ToyModel, toy_cfg
from tests.kit.trace import WriteSamples, read_steps

NO_SAVES = {"type": "CheckpointHook", "save_last": False}


def train(folder: str, changes: dict[str, Any], resume: str = "") -> dict[str, Any]:
    torch.set_num_threads(1)
    runner = assemble(toy_cfg(Path(folder), **changes), resume=resume)
    result = runner.train()
    model = runner.model.module if dist.get_world_size() > 1 else runner.model
    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    return {"weights": weights, "metrics": result["metrics"], "lines": len(list(Path(folder).glob("*/*.log")))}


def test_two_processes_are_one_on_the_same_global_batch(tmp_path: Path) -> None:
    # D2: several processes without a GPU
    plain = {"model": {"type": ToyModel, "dropout": 0.0}, "default_hooks__checkpoint": NO_SAVES}
    one = train(str(tmp_path / "one"), {**plain, "train_dataloader__batch_size": 4})
    two = run_ranks(train, 2, str(tmp_path / "two"), plain)
    for rank in two:
        for name, value in one["weights"].items():
            assert abs(rank["weights"][name] - value).max() < 1e-6, name
        assert rank["metrics"] == pytest.approx(one["metrics"], abs=1e-5)
        assert rank["metrics"]["toy/count"] == 9  # 9 samples on 2 ranks: the one that was repeated is not counted
        assert rank["lines"] == 1


def test_ranks_evaluate_rank_0s_buffers_and_agree(tmp_path: Path) -> None:
    norm = {"model": {"type": ToyModel, "norm": True}, "default_hooks__checkpoint": NO_SAVES}
    first, second = run_ranks(train, 2, str(tmp_path), norm)
    assert first["metrics"] == second["metrics"]
    # The last validation came after the last step, and nothing trained since: buffers are still rank 0's.
    for name in ("norm.running_mean", "norm.running_var"):
        assert (first["weights"][name] == second["weights"][name]).all()


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (2, 3), (3, 1)])
def test_resumed_ranks_end_bit_for_bit_as_undisturbed_ones(tmp_path: Path, world: int, accumulate: int) -> None:
    # With 3 ranks the order of summing gradients shows; batches of 2 x 3 give 4 iterations an epoch, else 6.
    end, stop = (18, 10) if world == 2 else (12, 6)
    changes = {
        "custom_hooks": [{"type": SaveAt, "iters": [stop, end]}],
        "default_hooks__checkpoint": NO_SAVES,
        "model": {"type": ToyModel, "dropout": 0.3},
        "optim_wrapper__accumulative_counts": accumulate,
        "randomness": {"seed": 3, "diff_rank_seed": True},
    }
    whole = run_ranks(train, world, str(tmp_path / "whole"), changes)
    part = run_ranks(train, world, str(tmp_path / "part"), changes, str(tmp_path / "whole" / f"iter_{stop}.pth"))
    for before, after in zip(whole, part, strict=True):
        assert before["metrics"] == after["metrics"]
        for name, value in before["weights"].items():
            assert (value == after["weights"][name]).all(), name


class FailAt(Hook):
    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == 3:
            raise OSError("hook broke")


def broken(folder: str) -> str:
    try:
        train(folder, {"custom_hooks": [{"type": FailAt}]})
    except OSError as error:
        return " ".join(error.__notes__)
    return "no error"


def test_an_error_in_a_hook_names_hook_stage_and_iteration_on_each_rank(tmp_path: Path) -> None:
    notes = run_ranks(broken, 2, str(tmp_path))
    assert notes == ["in hook FailAt, stage after_train_iter, epoch 1, iteration 4"] * 2


class LossModel(ToyModel):
    """Gives a loss with its predictions."""

    def val_step(self, data: Any) -> Any:
        return [*super().val_step(data), {"loss": torch.tensor(2.0)}]


def lonely(folder: str) -> dict[str, Any]:
    changes = {"model": {"type": LossModel}, "val_dataloader__dataset__size": 1}
    runner = assemble(toy_cfg(Path(folder), val_dataloader__sampler__round_up=False, **changes))
    metrics = runner.val()
    if dist.get_rank() == 1:
        runner.close()  # as a rank does that alone has failed
    return metrics


def test_nobody_waits_for_a_rank_without_samples_nor_for_one_that_leaves(tmp_path: Path) -> None:
    first, second = run_ranks(lonely, 2, str(tmp_path), timeout_s=60)
    assert first == second
    assert first["val_loss"] == 2.0


def train_some(folder: str, changes: dict[str, Any], resume: bool, seen: str) -> list[float]:
    """Train with a record of the samples, and stop where the config says."""
    torch.set_num_threads(1)
    trace = {"type": WriteSamples, "folder": seen}
    changes = {**changes, "custom_hooks": [*changes["custom_hooks"], trace]}
    runner = assemble(toy_cfg(Path(folder), **changes), resume=resume)
    with pytest.raises(Stopped):
        runner.train()
    return unwrapped(runner.model).first.weight.detach().flatten().tolist()


@pytest.mark.parametrize("loop", ["epoch", "iter"])
def test_two_then_one_then_three_ranks_train_on_the_same_iterations(tmp_path: Path, loop: str) -> None:
    # Batches of 3 for 2 ranks: an iteration is 6 samples, whoever is there. Stops at 5 and 9 lie within epochs of 4.
    ends = (5, 9, 12)

    def changes(end: int) -> dict[str, Any]:
        cfg = {"by_epoch": False, "max_iters": 12, "val_interval": 100} if loop == "iter" else None
        return {
            **({"train_cfg": cfg, "log_processor": {"by_epoch": False}} if cfg else {}),
            "model": {"type": ToyModel, "dropout": 0.0},
            "train_dataloader__batch_size": 3,
            "default_hooks__checkpoint": NO_SAVES,
            "custom_hooks": [{"type": SaveAt, "iters": [end]}, {"type": StopAt, "iteration": end}],
        }

    whole = run_ranks(train_some, 2, str(tmp_path / "whole"), changes(12), False, str(tmp_path / "all"))[0]
    last = None
    for i, (world, end) in enumerate(zip((2, 1, 3), ends, strict=True)):
        args = (str(tmp_path / "part"), changes(end), i > 0, str(tmp_path / f"seen{i}"))
        last = run_ranks(train_some, world, *args)[0]
    seen = [step for i in range(3) for step in read_steps(tmp_path / f"seen{i}")]
    assert seen == read_steps(tmp_path / "all")
    assert len(seen) == 12
    assert max(abs(a - b) for a, b in zip(last, whole, strict=True)) < 1e-5


def laid_out(folder: str, slots: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    plain = {"model": {"type": ToyModel, "dropout": 0.0}, "default_hooks__checkpoint": NO_SAVES}
    runner = assemble(toy_cfg(Path(folder), **plain), batch_workers=slots)
    runner.train()
    weights = {name: value.numpy().copy() for name, value in unwrapped(runner.model).state_dict().items()}
    return {"weights": weights, "iter": runner.iter}


def test_slots_that_do_not_divide_are_shared_unevenly_with_the_same_gradients(tmp_path: Path) -> None:
    # Three slots on two ranks: one trains on two batches, the other on one, and gradients are exchanged once.
    three = run_ranks(laid_out, 3, str(tmp_path / "three"), 3)[0]
    for rank in run_ranks(laid_out, 2, str(tmp_path / "two"), 3):
        assert rank["iter"] == three["iter"] == 12
        for name, value in three["weights"].items():
            assert abs(rank["weights"][name] - value).max() < 1e-6, name


class StopAt(Hook):
    """Leaves after an iteration whose checkpoint is written.

    Args:
        iteration: Iterations finished by then.
    """

    priority = "LOWEST"

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.iteration:
            raise Stopped("resize", self.iteration)
