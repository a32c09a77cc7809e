"""What is in a checkpoint, and what becomes of one that does not quite fit the run that resumes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.hooks import Hook
from raydet3d.runtime import Runner, assemble
from tests.kit.toy import SaveAt, toy_cfg

KEYS = {
    *("meta", "state_dict", "optimizer", "param_schedulers", "message_hub"),  # MMEngine's
    *("progress", "history", "hooks", "rng", "sampler"),
}
NO_SAVES = {"type": "CheckpointHook", "save_last": False}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    hooks = [{"type": SaveAt, "iters": [17, 24]}]
    assemble(toy_cfg(folder, custom_hooks=hooks, default_hooks__checkpoint=NO_SAVES, log_level="ERROR")).train()
    return folder


def resumed(folder: Path, path: Path, **changes: Any) -> tuple[Runner, str]:
    runner = assemble(toy_cfg(folder, default_hooks__checkpoint=NO_SAVES, **changes), resume=str(path))
    runner._prepare_training()
    runner.call_hook("before_run")
    runner.load_or_resume()
    return runner, next(folder.glob("*/*.log")).read_text()


def test_keys_are_frozen_and_plain(saved: Path) -> None:
    state = torch.load(saved / "iter_17.pth", weights_only=True)
    assert set(state) == KEYS
    assert state["progress"] == {"epoch": 1, "iter": 17, "round": 1, "batch": 5, "validated": 12}
    assert state["sampler"] == {"seed": 3, "batch_size": 2, "slots": 1}
    assert len(state["rng"]) == 1
    # What MMEngine's resume asks for.
    assert (state["meta"]["epoch"], state["meta"]["iter"]) == (1, 17)
    assert set(state["message_hub"]) == {"log_scalars", "runtime_info", "resumed_keys"}
    assert len(state["param_schedulers"]) == 2


@pytest.mark.parametrize(("iters", "epoch", "expected"), [(17, 1, (1, 17, 5)), (24, 2, (2, 24, 0))])
def test_a_checkpoint_of_mmengines_goes_on_where_it_stood(
    tmp_path: Path, saved: Path, iters: int, epoch: int, expected: tuple[int, int, int]
) -> None:
    state = torch.load(saved / f"iter_{iters}.pth", weights_only=True)
    theirs = {key: state[key] for key in ("state_dict", "optimizer", "param_schedulers", "message_hub")}
    theirs["meta"] = {"epoch": epoch, "iter": iters}
    torch.save(theirs, tmp_path / "theirs.pth")
    runner, _ = resumed(tmp_path / "a", tmp_path / "theirs.pth")
    assert (runner.epoch, runner.iter, runner.progress.batch) == expected
    assert runner.progress.validated == iters  # what it validated is not known, so nothing is done again
    by_iter = {"by_epoch": False, "max_iters": 40}
    runner, _ = resumed(tmp_path / "b", tmp_path / "theirs.pth", train_cfg=by_iter)
    assert (runner.epoch, runner.iter) == (0, iters)
    assert (runner.progress.data_pass, runner.progress.batch) == divmod(iters, 12)


def test_another_batch_size_keeps_the_place_in_the_data(tmp_path: Path, saved: Path) -> None:
    runner, text = resumed(tmp_path, saved / "iter_17.pth", train_dataloader__batch_size=5)
    assert runner.progress.batch == 2
    assert "the global batch was 2 samples and is 5 now: continuing at sample 10 of the pass" in text


def test_differences_from_the_checkpoint_are_logged(tmp_path: Path, saved: Path) -> None:
    class Stateful(Hook):
        def state_dict(self) -> dict[str, Any]:
            return {"count": 1}

    state = torch.load(saved / "iter_17.pth", weights_only=True)
    state["rng"] = state["rng"] * 3
    state["hooks"].append({"position": 9, "name": "GoneHook", "state": {"x": 1}})
    state["meta"]["threads"] = 77
    torch.save(state, tmp_path / "other.pth")
    optimizer = {"type": "AdamW", "lr": 0.02}
    _, text = resumed(tmp_path / "run", tmp_path / "other.pth", optim_wrapper__optimizer=optimizer)
    assert "the checkpoint is of 3 processes, this run has 1" in text
    assert "the checkpoint has state of GoneHook, which this run does not have" in text
    assert "the checkpoint was made with 77 torch threads" in text
    assert "changed since the checkpoint: lr: 0.01 -> 0.02" in text


def test_another_seed_is_logged(tmp_path: Path, saved: Path) -> None:
    _, log = resumed(tmp_path / "a", saved / "iter_17.pth", randomness={"seed": 4})
    assert "the checkpoint was made with seed 3, this run has 4: what is left of the pass comes in another order" in log
    _, log = resumed(tmp_path / "b", saved / "iter_17.pth")
    assert "made with seed" not in log
