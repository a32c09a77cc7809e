"""A run that is stopped and resumed is, bit for bit, the run that was not: against the undisturbed run itself."""

from __future__ import annotations

import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.runtime import assemble
from tests.kit.exact import same_run
from tests.kit.toy import SaveAt, ToyData, ToyModel, toy_cfg

NO_SAVES = {"type": "CheckpointHook", "save_last": False}
ITER_BASED = {"by_epoch": False, "max_iters": 31, "val_interval": 8}


def saves(*iters: int) -> dict[str, Any]:
    """Changes of the config: save after these iterations, and drop pasted objects after the first epoch."""
    off = {"type": "DisableObjectSampleHook", "disable_after_epoch": 1}
    return {"custom_hooks": [off, {"type": SaveAt, "iters": list(iters)}], "default_hooks__checkpoint": NO_SAVES}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loop", ["epoch", "iter"])
def test_a_run_resumed_at_any_iteration_ends_as_the_undisturbed_one(tmp_path: Path, loop: str, workers: int) -> None:
    # F1 (generators), F2 (the middle of an epoch), F3 (by iteration)
    changes: dict[str, Any] = {
        "train_dataloader__num_workers": workers,
        "train_dataloader__persistent_workers": workers > 0,
    }
    if loop == "iter":
        changes["train_cfg"] = ITER_BASED
        changes["log_processor"] = {"by_epoch": False}
    end = 36 if loop == "epoch" else 31
    stops = (1, 12, 17, 24) if workers == 0 else (13,)
    changes |= saves(*stops, end)
    assemble(toy_cfg(tmp_path / "whole", **changes)).train()
    last = f"iter_{end}.pth"
    for stop in stops:
        part = tmp_path / f"part{stop}"
        result = assemble(toy_cfg(part, **changes), resume=str(tmp_path / "whole" / f"iter_{stop}.pth")).train()
        same_run(tmp_path / "whole" / last, part / last)
        assert result["metrics"]["toy/count"] == 9


def test_an_epoch_checkpoint_and_an_infinite_sampler(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    assemble(toy_cfg(whole)).train()
    assemble(toy_cfg(part), resume=str(whole / "epoch_2.pth")).train()
    same_run(whole / "epoch_3.pth", part / "epoch_3.pth")
    endless = {
        "train_cfg": ITER_BASED,
        "train_dataloader__sampler": {"type": "InfiniteSampler"},
        **saves(11, 12, 19, 31),
    }
    assemble(toy_cfg(whole / "endless", **endless)).train()
    for stop in (11, 12, 19):
        out = tmp_path / f"endless{stop}"
        assemble(toy_cfg(out, **endless), resume=str(whole / "endless" / f"iter_{stop}.pth")).train()
        same_run(whole / "endless" / "iter_31.pth", out / "iter_31.pth")


def test_accumulated_gradients_survive_a_stop_within_their_group(tmp_path: Path) -> None:
    changes = {"optim_wrapper__accumulative_counts": 3, **saves(16, 36)}
    assemble(toy_cfg(tmp_path / "whole", **changes)).train()
    assemble(toy_cfg(tmp_path / "part", **changes), resume=str(tmp_path / "whole" / "iter_16.pth")).train()
    same_run(tmp_path / "whole" / "iter_36.pth", tmp_path / "part" / "iter_36.pth")


def test_a_validation_that_the_stop_cut_off_is_held_after_the_resume(tmp_path: Path) -> None:
    best = {"type": "CheckpointHook", "interval": 1, "save_best": "toy/AP"}
    whole = assemble(toy_cfg(tmp_path / "whole", default_hooks__checkpoint=best)).train()
    # epoch_3.pth is written before the last validation: a run killed there has no score yet.
    part = assemble(
        toy_cfg(tmp_path / "part", default_hooks__checkpoint=best), resume=str(tmp_path / "whole" / "epoch_3.pth")
    ).train()
    assert part["metrics"] == whole["metrics"]
    assert part["best_score"] == whole["best_score"]


def test_the_seed_that_was_drawn_is_kept(tmp_path: Path) -> None:
    # F4
    changes = {"randomness": {}, **saves(7, 36)}
    assemble(toy_cfg(tmp_path / "whole", **changes)).train()
    assemble(toy_cfg(tmp_path / "part", **changes), resume=str(tmp_path / "whole" / "iter_7.pth")).train()
    same_run(tmp_path / "whole" / "iter_36.pth", tmp_path / "part" / "iter_36.pth")


def train_in_a_process(folder: Path, resume: bool) -> None:
    every = {"type": "CheckpointHook", "interval": 1, "by_epoch": False}
    result = assemble(toy_cfg(folder, default_hooks__checkpoint=every), resume=resume).train()
    assert result["iter"] == 36


def test_kill_dash_nine_in_the_middle_then_resume(tmp_path: Path) -> None:
    def start(folder: str, resume: bool) -> Any:
        process = get_context("fork").Process(target=train_in_a_process, args=(tmp_path / folder, resume))
        process.start()
        return process

    whole, part = start("whole", False), start("part", False)
    deadline = time.monotonic() + 60
    while not (tmp_path / "part" / "iter_9.pth.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    part.kill()
    part.join(60)
    assert part.exitcode == -signal.SIGKILL
    assert not (tmp_path / "part" / "iter_36.pth.json").exists()
    again = start("part", True)
    again.join(60)
    whole.join(60)
    assert (again.exitcode, whole.exitcode) == (0, 0)
    same_run(tmp_path / "whole" / "iter_36.pth", tmp_path / "part" / "iter_36.pth")
    assert not list((tmp_path / "part").glob(".*.tmp"))


def test_the_toys_would_show_a_difference(tmp_path: Path) -> None:
    # The comparison above means something only if order, augmentation and dropout matter to the toy.
    def weights(**changes: Any) -> torch.Tensor:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        runner = assemble(toy_cfg(folder, **changes))
        runner.train()
        return runner.model.first.weight.detach().clone()

    base = weights()
    assert torch.equal(base, weights())
    assert not torch.equal(base, weights(randomness={"seed": 4}))
    assert not torch.equal(base, weights(model={"type": ToyModel, "dropout": 0.0}))
    assert not torch.equal(base, weights(train_dataloader__dataset={"type": ToyData, "noise": 0.0}))
