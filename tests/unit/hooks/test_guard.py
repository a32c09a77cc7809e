"""GuardHook: what a run of toys says of bad steps, and how each policy goes on; weights against runs without them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.hooks import GuardHook, Hook
from raydet3d.registry import HOOKS
from raydet3d.runtime import Runner, assemble
from tests.kit.spawn import run_ranks
from tests.kit.toy import ToyModel, ToySample, toy_cfg


class Taint(Hook):
    """Marks the batches of some iterations (from 1): something is to go wrong with them, however often they are tried.

    Args:
        iters: Which.
        place: What goes wrong: ``layer``, ``loss`` or ``gradient``.
        rank: Of one rank only.
    """

    def __init__(self, iters: Sequence[int], place: str = "loss", rank: int | None = None) -> None:
        self.iters, self.place, self.rank = set(iters), place, rank
        self.ids: set[int] = set()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 in self.iters and self.rank in (None, dist.get_rank()):
            for sample in data_batch["data_samples"]:
                sample.taint = self.place
                self.ids.add(sample.sample_idx)


class Tainted(ToyModel):
    """Goes wrong on tainted batches."""

    def forward(self, inputs: Tensor, data_samples: Sequence[ToySample], mode: str = "tensor") -> Any:
        place = getattr(data_samples[0], "taint", "") if mode == "loss" else ""
        handle = None
        if place == "layer":
            handle = self.first.register_forward_hook(lambda module, given, out: out * float("nan"), prepend=True)
        out = super().forward(inputs, data_samples, mode)
        if handle is not None:
            handle.remove()
        if place == "loss":
            out["loss_fit"] = out["loss_fit"] * float("inf")
        if place == "gradient":  # the root's slope at 0 is infinite
            out["loss_fit"] = out["loss_fit"] + (self.bbox_head.bias * 0).abs().sqrt().sum()
        return out


def run(folder: Path, hook: Mapping[str, Any] | None, taint: Taint | None = None, **changes: Any) -> tuple[Runner, str]:
    guard = None if hook is None else {"type": "GuardHook", **hook}
    defaults: dict[str, Any] = {"param_scheduler": [], "model": {"type": Tainted}, "default_hooks__guard": guard}
    cfg = toy_cfg(folder, **{**defaults, **changes})
    cfg["custom_hooks"] = [*(cfg.get("custom_hooks") or []), *([taint] if taint else [])]
    runner = assemble(cfg)
    runner.train()
    return runner, log_of(runner)


def log_of(runner: Any) -> str:
    return next(runner.log_dir.glob("*.log")).read_text()


PLACES = {
    "layer": r"loss_fit was not finite; the first output that is not finite is that of first \(Linear\)",
    "loss": r"loss_fit was not finite; the first output that is not finite is that of Tainted itself, outside its mod",
    "gradient": r"the losses were finite, a gradient was not; the loss is finite, the gradient of bbox_head.bias is",
}


@pytest.mark.parametrize("place", PLACES)
def test_samples_losses_and_the_first_bad_module_are_named(tmp_path: Path, place: str) -> None:
    taint = Taint([8, 10], place)
    runner, text = run(tmp_path, {}, taint)
    (line,) = [line for line in text.splitlines() if "left out" in line]
    assert "2 of the last 5 steps left out, weights untouched: first at iteration 8 (rank 0, samples [" in line
    ids = [int(number) for number in re.search(r"samples \[(\d+), (\d+)\]", line).groups()]  # type: ignore[union-attr]
    assert set(ids) < taint.ids
    assert re.search(PLACES[place], line), line
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())


def test_a_batch_that_is_not_finite_itself_is_named(tmp_path: Path) -> None:
    class Spoil(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if runner.iter == 3:
                data_batch["inputs"][1][2] = float("inf")

    _, text = run(tmp_path, {}, custom_hooks=[Spoil()])
    assert "the batch itself is not finite: inputs[1]" in text


def test_replaying_a_batch_changes_nothing(tmp_path: Path) -> None:
    """A run with a bad step ends as one whose report is switched off: same weights, statistics and random draws."""
    norm = {"type": Tainted, "norm": True}
    told, text = run(tmp_path / "told", {}, Taint([8]), model=norm)
    silent, nothing = run(tmp_path / "silent", None, Taint([8]), model=norm)
    assert "left out" in text
    assert "left out" not in nothing
    for name, value in told.model.state_dict().items():
        assert torch.equal(value, silent.model.state_dict()[name]), name


def test_stop_ends_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training stopped at iteration 8; first at iteration 8 \(rank 0, samples \["):
        run(tmp_path, {"policy": "stop"}, Taint([8]))


def test_a_run_without_a_good_step_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ended at iteration 10: the last 10 steps in a row were bad; first at it"):
        run(tmp_path / "a", {"max_bad_steps": 7}, Taint(range(1, 99)))
    # Fewer steps than it takes to make a row are no success either.
    short = {"by_epoch": True, "max_epochs": 1}
    with pytest.raises(InputError, match="none of the 12 steps was good"):
        run(tmp_path / "b", {}, Taint(range(1, 99)), train_cfg=short)


def test_bad_steps_that_are_followed_by_good_ones_do_not_end_the_run(tmp_path: Path) -> None:
    runner, text = run(tmp_path, {"max_bad_steps": 7}, Taint(range(14, 21)))
    assert runner.iter == 36
    # Looked at after 17 (4 in a row) and 22 (7, but two good ones since).
    assert text.count("left out") == 2


ROLL = {"policy": "rollback", "max_bad_steps": 5, "max_rollbacks": 1}


def test_rollback_restores_the_newest_checkpoint_before_the_bad_steps(tmp_path: Path) -> None:
    class Peek(Hook):
        """Weights and moments at the end of epoch 1, and after the rollback at iteration 22."""

        priority = "LOWEST"
        seen: list[Any]

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter + 1 in (12, 22):
                state = runner.optim_wrapper.state_dict()["state"]
                moments = [value["exp_avg"].clone() for value in state.values()]
                self.seen.append([p.detach().clone() for p in runner.model.parameters()] + moments)
                self.rate = runner.optim_wrapper.get_lr()["lr"][0]

    peek = Peek()
    peek.seen = []
    # Looked at every 5 batches of an epoch of 12: a row from 18 to 22 is seen at 22; epoch_1.pth is of iteration 12.
    schedule = [{"type": "MultiStepLR", "milestones": [14], "by_epoch": False}]
    runner, text = run(tmp_path, ROLL, Taint(range(18, 23)), param_scheduler=schedule, custom_hooks=[peek])
    assert "the last 5 steps in a row were bad: back to the weights of epoch_1.pth, on with the next" in text
    assert all(torch.equal(a, b) for a, b in zip(*peek.seen, strict=True))
    assert peek.rate == pytest.approx(0.001)  # the schedule stays where it is: it has gone down at 14
    assert runner.iter == 36


def test_rollback_without_a_checkpoint_or_without_success_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in a row were bad, and there is no checkpoint from before to go back to"):
        run(tmp_path / "a", ROLL, Taint(range(6, 99)))
    with pytest.raises(InputError, match=r"in a row were bad after 1 rollbacks"):
        run(tmp_path / "b", ROLL, Taint(range(15, 99)))


def test_checkpoints_used_for_rollbacks_survive_a_resume(tmp_path: Path) -> None:
    run(tmp_path, {**ROLL, "max_rollbacks": 2}, Taint(range(18, 23)))
    entries = torch.load(tmp_path / "epoch_2.pth", weights_only=True)["hooks"]
    assert [e["state"] for e in entries if e["name"] == "GuardHook"] == [{"used": ["epoch_1.pth"], "any_good": True}]


def guilty(folder: str) -> str:
    return run(Path(folder), {}, Taint([4], "layer", rank=1))[1]


def test_the_report_names_the_rank_of_the_bad_loss(tmp_path: Path) -> None:
    text, _ = run_ranks(guilty, 2, str(tmp_path))
    (line,) = [line for line in text.splitlines() if "left out" in line]
    assert "first at iteration 4 (rank 1, samples [" in line
    assert "is that of first (Linear)" in line


def test_a_custom_train_step_that_cannot_be_replayed_is_reported(tmp_path: Path) -> None:
    class Own(Tainted):
        def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
            assert optim_wrapper.optimizer is not None
            return super().train_step(data, optim_wrapper)

    _, text = run(tmp_path, {}, Taint([3]), model={"type": Own})
    assert "the batch could not be tried again (AttributeError" in text


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    runner, text = run(tmp_path / "a", None, Taint([8]))
    assert not any(isinstance(hook, GuardHook) for hook in runner.hooks)
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())
    runner, more = run(tmp_path / "b", {}, Taint([8]), optim_wrapper__guard=False)
    assert "left out" not in text + more
    assert not all(parameter.isfinite().all() for parameter in runner.model.parameters())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"policy": "ignore"}, "policy must be one of skip, stop, rollback, got 'ignore'"),
        ({"max_bad_steps": 0}, "max_bad_steps must be an integer of at least 1, got 0"),
        ({"interval": 2.5}, "interval must be an integer of at least 1, got 2.5"),
    ],
)
def test_bad_arguments(args: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        HOOKS.build({"type": "GuardHook", **args})


class Exchanging(Tainted):
    """A loss that is weighed over all ranks, as heads with a ``reduce_mean`` do; NaN where a batch is."""

    def forward(self, inputs: Tensor, data_samples: Sequence[ToySample], mode: str = "tensor") -> Any:
        out = super().forward(inputs, data_samples, mode)
        if mode == "loss":
            weight = torch.ones(())
            dist.all_reduce(weight, "mean")
            out = {name: value * weight for name, value in out.items()}
        return out


def train_with_a_bad_sample(folder: str) -> str:
    cfg = toy_cfg(Path(folder), model={"type": Exchanging}, log_level="ERROR")
    runner = assemble(cfg)

    class Poison(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if runner.iter == 1 and dist.get_rank() == 1:
                for value in data_batch["inputs"]:
                    value.fill_(float("nan"))

    runner.register_hook(Poison())
    runner.train()
    return "done"


def test_replaying_on_all_ranks_does_not_block_collective_forward_passes(tmp_path: Path) -> None:
    assert run_ranks(train_with_a_bad_sample, 2, str(tmp_path), timeout_s=60) == ["done", "done"]


class ByItself(ToyModel):
    """Steps its optimizer itself, past the wrapper."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        losses = self(**self.data_preprocessor(data, True), mode="loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.optimizer.zero_grad()
        loss.backward()
        optim_wrapper.optimizer.step()
        return log_vars


def test_a_custom_train_step_without_verdicts_is_no_failure(tmp_path: Path) -> None:
    assemble(toy_cfg(tmp_path, model={"type": ByItself}, log_level="ERROR")).train()
