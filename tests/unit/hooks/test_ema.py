"""EMAHook in runs of toys: what is validated, what is saved, and that a resume goes on to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.hooks import EMAHook, Hook
from raydet3d.runtime import Runner, assemble
from tests.kit.spawn import run_ranks
from tests.kit.toy import SaveAt, ToyModel, toy_cfg

NO_SAVES = {"type": "CheckpointHook", "save_last": False}
NORM = {"type": ToyModel, "norm": True}


class Spy(Hook):
    """Notes the model's weight during training and validation."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.seen: dict[str, list[torch.Tensor]] = {"train": [], "val": [], "test": []}

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = ""
    ) -> None:
        self.seen[mode].append(runner.model.first.weight.detach().clone())


def make(folder: Path, ema: dict[str, Any], *, resume: Any = False, spy: Hook | None = None, **changes: Any) -> Runner:
    hooks = [{"type": "EMAHook", **ema}, {"type": SaveAt, "iters": [7]}, *([spy] if spy else [])]
    defaults = {"default_hooks__checkpoint": NO_SAVES, "model": NORM, "log_level": "ERROR"}
    cfg = toy_cfg(folder, **{**defaults, **changes})
    cfg["custom_hooks"] = hooks
    return assemble(cfg, resume=resume)


def averaged(runner: Runner) -> dict[str, torch.Tensor]:
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    return {name: value.clone() for name, value in hook.ema_model.state_dict().items()}


def test_validation_sees_the_average_and_training_does_not(tmp_path: Path) -> None:
    spy, plain_spy = Spy(), Spy()
    make(tmp_path / "ema", {"momentum": 0.25}, spy=spy).train()
    assemble(
        toy_cfg(
            tmp_path / "plain",
            log_level="ERROR",
            default_hooks__checkpoint=NO_SAVES,
            model=NORM,
            custom_hooks=[plain_spy],
        )
    ).train()
    expected: list[torch.Tensor] = []
    for weight in spy.seen["train"]:
        expected.append(weight if not expected else expected[-1].lerp(weight, 0.25))
    for epoch in range(3):
        assert torch.equal(spy.seen["val"][5 * epoch], expected[12 * epoch + 11])
    for ours, plain in zip(spy.seen["train"], plain_spy.seen["train"], strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    "ema",
    [
        {},
        {"ema_type": "StochasticWeightAverage", "update_buffers": True},
        {"ema_type": "MomentumAnnealingEMA", "gamma": 5, "interval": 2, "begin_epoch": 2},
    ],
    ids=["exponential", "mean with buffers", "annealed from epoch 2"],
)
def test_a_resume_goes_on_to_the_bit(tmp_path: Path, ema: dict[str, Any]) -> None:
    whole = make(tmp_path / "whole", ema)
    result = whole.train()
    part = make(tmp_path / "part", ema, resume=str(tmp_path / "whole" / "iter_7.pth"))
    rest = part.train()
    assert result["metrics"] == rest["metrics"]
    for name, value in averaged(whole).items():
        assert torch.equal(value, averaged(part)[name]), name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, part.model.state_dict()[name]), name


def test_a_checkpoint_holds_the_average_ready_for_use(tmp_path: Path) -> None:
    runner = make(tmp_path, {"momentum": 0.5}, default_hooks__checkpoint={"type": "CheckpointHook", "interval": 3})
    metrics = runner.train()["metrics"]
    saved = torch.load(tmp_path / "epoch_3.pth", weights_only=True)
    average = averaged(runner)
    assert average["steps"] == saved["ema_state_dict"]["steps"] == 36
    for name, value in runner.model.state_dict().items():
        assert torch.equal(saved["ema_state_dict"][f"module.{name}"], value)
        assert torch.equal(saved["state_dict"][name], average[f"module.{name}"])
    # Whoever loads it, with an EMAHook or without, scores the average.
    for number, hooks in enumerate(([], [{"type": "EMAHook"}])):
        path = str(tmp_path / "epoch_3.pth")
        cfg = toy_cfg(tmp_path / f"test{number}", model=NORM, load_from=path, custom_hooks=hooks, log_level="ERROR")
        assert assemble(cfg).test() == metrics
        cfg["load_from"], cfg["resume"] = None, path
        assert assemble(cfg).test() == metrics
    assert runner.test() == metrics  # and the run itself, after its training


def test_load_from_begins_the_average_too(tmp_path: Path) -> None:
    first = make(tmp_path / "first", {}, default_hooks__checkpoint={"type": "CheckpointHook"})
    first.train()
    path = tmp_path / "first" / "epoch_3.pth"
    runner = make(tmp_path / "second", {"begin_iter": 10**6}, load_from=str(path), train_cfg={"max_epochs": 10**6})
    runner.call_hook("before_run")
    runner.load_or_resume()
    saved = torch.load(path, weights_only=True)["state_dict"]
    for name, value in saved.items():
        assert torch.equal(averaged(runner)[f"module.{name}"], value)
        assert torch.equal(runner.model.state_dict()[name], value)


def test_resuming_a_run_that_had_no_average_begins_one(tmp_path: Path) -> None:
    assemble(toy_cfg(tmp_path, model=NORM, log_level="ERROR")).train()
    runner = make(tmp_path / "more", {}, resume=str(tmp_path / "epoch_2.pth"), log_level="WARNING")
    runner.train()
    assert "the checkpoint has no ema_state_dict" in next(runner.log_dir.glob("*.log")).read_text()
    assert averaged(runner)["steps"] == 12


def test_until_it_begins_the_average_is_a_copy(tmp_path: Path) -> None:
    runner = make(tmp_path, {"begin_iter": 36})
    runner.train()
    assert averaged(runner)["steps"] == 1
    for name, value in runner.model.state_dict().items():
        assert torch.equal(averaged(runner)[f"module.{name}"], value)


@pytest.mark.parametrize(
    ("ema", "words"),
    [
        ({"begin_iter": 3, "begin_epoch": 1}, "give begin_iter or begin_epoch, not both"),
        ({"begin_epoch": -1}, "begin_epoch must be 0 or more"),
        ({"begin_epoch": 9}, r"begin_epoch=9 lies after the end of training \(3\)"),
        ({"ema_type": "MovingAverage"}, "unknown .* type 'MovingAverage'"),
        ({"momentum": 0}, "momentum must lie between 0 and 1"),
    ],
)
def test_bad_arguments(tmp_path: Path, ema: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(tmp_path, ema).train()


def test_a_strict_average_refuses_what_does_not_fit(tmp_path: Path) -> None:
    assemble(toy_cfg(tmp_path, log_level="ERROR")).train()
    changes = {"load_from": str(tmp_path / "epoch_3.pth")}
    make(tmp_path / "a", {}, **changes).train()  # what fits is taken
    with pytest.raises(InputError, match=r"the checkpoint's average does not fit the model: norm\.weight"):
        make(tmp_path / "b", {"strict_load": True}, **changes).train()


def ranks(folder: str) -> dict[str, Any]:
    runner = make(Path(folder), {"update_buffers": True, "momentum": 0.5})
    metrics = runner.train()["metrics"]
    return {"metrics": metrics, "rank": dist.get_rank()}


def test_ranks_validate_the_same_average(tmp_path: Path) -> None:
    first, second = run_ranks(ranks, 2, str(tmp_path))
    assert first["metrics"] == second["metrics"]
