"""Going back to an earlier checkpoint: which one, and what of the run stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raydet3d.hooks import EMAHook
from raydet3d.runtime import Runner, assemble
from tests.kit.toy import toy_cfg


def trained(folder: Path, **changes: Any) -> Runner:
    runner = assemble(toy_cfg(folder, log_level="ERROR", custom_hooks=[{"type": "EMAHook"}], **changes))
    runner.train()
    return runner


def weights_in(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)["ema_state_dict"]
    return {name.removeprefix("module."): value for name, value in state.items()}


def test_roll_back_loads_the_newest_intact_checkpoint_before_an_iteration(tmp_path: Path) -> None:
    runner = trained(tmp_path)
    before = runner.optim_wrapper.get_lr()
    assert runner.roll_back(before=36) == "epoch_2.pth"
    saved = weights_in(tmp_path / "epoch_2.pth")
    assert all(torch.equal(value, saved[name]) for name, value in runner.model.state_dict().items())
    assert all(value["step"] == 24 for value in runner.optim_wrapper.state_dict()["state"].values())
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert hook.ema_model.steps == saved["steps"] == 24
    # Counts and rates are those of now.
    assert (runner.epoch, runner.iter) == (3, 36)
    assert runner.optim_wrapper.get_lr() == before
    assert runner.roll_back(before=36, passed_over=["epoch_2.pth"]) == "epoch_1.pth"


def test_roll_back_skips_damaged_checkpoints_and_changes_nothing_without_any(tmp_path: Path) -> None:
    runner = trained(tmp_path)
    (tmp_path / "epoch_2.pth").write_bytes(b"damaged")
    assert runner.roll_back(before=36) == "epoch_1.pth"
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    assert runner.roll_back(before=12) is None
    assert all(torch.equal(value, before[name]) for name, value in runner.model.state_dict().items())


def test_roll_back_finds_checkpoints_in_out_dir_before_the_first_save(tmp_path: Path) -> None:
    hook = {"type": "CheckpointHook", "interval": 1, "out_dir": str(tmp_path / "out")}
    trained(tmp_path / "work", default_hooks__checkpoint=hook)
    cfg = toy_cfg(tmp_path / "work", default_hooks__checkpoint=hook, log_level="ERROR")
    cfg["custom_hooks"] = [{"type": "EMAHook"}]
    runner = assemble(cfg, resume=str(tmp_path / "out" / "work" / "epoch_2.pth"))
    _ = runner.optim_wrapper, runner.param_schedulers
    runner.call_hook("before_run")
    runner.load_or_resume()
    runner.call_hook("before_train")
    assert runner.roll_back(before=20) == "epoch_1.pth"
