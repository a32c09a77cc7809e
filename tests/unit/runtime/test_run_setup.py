"""How a run begins: every combination of resume and load_from, on real checkpoints of toys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.runtime import Runner, assemble
from raydet3d.runtime.run_setup import ResumeInfo, resolve_batch_workers
from tests.kit.toy import ToyModel, toy_cfg

ONE = {"train_cfg": {"by_epoch": True, "max_epochs": 1}, "log_level": "ERROR"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a run of three epochs, with a best model."""
    folder = tmp_path_factory.mktemp("done")
    hook = {"type": "CheckpointHook", "interval": 1, "save_best": "toy/AP"}
    assemble(toy_cfg(folder, default_hooks__checkpoint=hook, log_level="ERROR")).train()
    return folder


def began(runner: Runner) -> tuple[int, torch.Tensor]:
    """Iteration and weights with which training begins."""
    seen: list[Any] = []
    runner.train_loop.run = lambda: seen.extend([runner.iter, runner.model.first.weight.detach().clone()])
    runner.train()
    return seen[0], seen[1]


def weights(path: Path) -> torch.Tensor:
    return torch.load(path, weights_only=True)["state_dict"]["first.weight"]


def test_weights_only(tmp_path: Path, done: Path) -> None:
    iteration, weight = began(assemble(toy_cfg(tmp_path, load_from=str(done / "epoch_2.pth"), **ONE)))
    assert iteration == 0
    assert torch.equal(weight, weights(done / "epoch_2.pth"))


def test_resume_from_a_file(tmp_path: Path, done: Path) -> None:
    path = str(done / "epoch_2.pth")
    assert began(assemble(toy_cfg(tmp_path / "a", log_level="ERROR"), resume=path))[0] == 24
    assert began(assemble(toy_cfg(tmp_path / "b", resume=path, log_level="ERROR")))[0] == 24
    # As MMEngine has it: both in the config mean to go on from that file.
    both = {"resume": True, "load_from": path, "log_level": "ERROR"}
    assert began(assemble(toy_cfg(tmp_path / "c", **both)))[0] == 24


def test_the_first_start_of_an_auto_resuming_job_uses_load_from(tmp_path: Path, done: Path) -> None:
    # F9
    changes = {"load_from": str(done / "epoch_2.pth"), "log_level": "ERROR"}
    iteration, weight = began(assemble(toy_cfg(tmp_path, **changes), resume=True))
    assert iteration == 0
    assert torch.equal(weight, weights(done / "epoch_2.pth"))
    assemble(toy_cfg(tmp_path, **{**ONE, **changes}), resume=True).train()
    # The second start has a checkpoint of its own.
    assert began(assemble(toy_cfg(tmp_path, **changes), resume=True))[0] == 12


def test_auto_resume_without_anything_begins_afresh(tmp_path: Path) -> None:
    assert began(assemble(toy_cfg(tmp_path, **{**ONE, "log_level": "INFO"}), resume=True))[0] == 0
    assert (
        f"no checkpoint to resume from in {tmp_path}: the run begins afresh"
        in next(tmp_path.glob("*/*.log")).read_text()
    )


def test_a_retry_takes_checkpoints_of_its_own_start_only(tmp_path: Path, done: Path) -> None:
    assemble(toy_cfg(tmp_path, **ONE), timestamp="first").train()
    assert began(assemble(toy_cfg(tmp_path, log_level="ERROR"), timestamp="second", retry=True))[0] == 0
    assert began(assemble(toy_cfg(tmp_path, log_level="ERROR"), timestamp="first", retry=True))[0] == 12
    asked = {"resume": str(done / "epoch_2.pth"), "log_level": "ERROR"}
    assert began(assemble(toy_cfg(tmp_path, **asked), timestamp="second", retry=True))[0] == 24
    # --resume with load_from, and the first try died before it saved: the weights to begin with, as the first time.
    given = {"load_from": str(done / "epoch_2.pth"), "log_level": "ERROR"}
    again = assemble(toy_cfg(tmp_path / "new", **given), timestamp="third", resume=True, retry=True)
    assert began(again)[0] == 0


def test_the_newest_is_damaged(tmp_path: Path) -> None:
    assemble(toy_cfg(tmp_path, log_level="ERROR")).train()
    (tmp_path / "epoch_3.pth").write_bytes((tmp_path / "epoch_3.pth").read_bytes()[:-1])
    assert began(assemble(toy_cfg(tmp_path, log_level="ERROR"), resume=True))[0] == 24


def test_what_no_run_can_go_on_from(tmp_path: Path, done: Path) -> None:
    best = next(done.glob("best*.pth"))
    with pytest.raises(InputError, match="has no optimizer state, so training cannot continue from it"):
        assemble(toy_cfg(tmp_path, **ONE), resume=str(best)).train()
    with pytest.raises(InputError, match="cannot read checkpoint"):
        assemble(toy_cfg(tmp_path, **ONE), resume=str(tmp_path / "none.pth"))


class Wider(ToyModel):
    def __init__(self) -> None:
        super().__init__()
        self.bbox_head = torch.nn.Linear(16, 2)
        self.extra = torch.nn.Linear(1, 1)


def test_a_checkpoint_that_does_not_fit(tmp_path: Path, done: Path) -> None:
    # I6
    path = str(done / "epoch_3.pth")
    changes = {"model": {"type": Wider}, "log_level": "ERROR"}
    with pytest.raises(InputError) as caught:
        assemble(toy_cfg(tmp_path, **changes), resume=path).train()
    message = str(caught.value)
    assert "2 missing: extra.weight, extra.bias" in message
    assert "bbox_head.weight (1, 16) for (2, 16)" in message
    # As pretrained weights, what fits is taken.
    runner = assemble(toy_cfg(tmp_path, load_from=path, **changes))
    runner.call_hook("before_run")
    runner.load_or_resume()
    assert torch.equal(runner.model.first.weight, weights(done / "epoch_3.pth"))


def test_validation_alone_and_its_score(tmp_path: Path, done: Path) -> None:
    runner = assemble(toy_cfg(tmp_path, load_from=str(done / "epoch_3.pth"), log_level="ERROR"))
    best = torch.load(next(done.glob("best*.pth")), weights_only=True)
    scores = runner.test()
    assert scores == runner.val()
    hook = next(entry for entry in best["hooks"] if entry["name"] == "CheckpointHook")
    assert scores["toy/AP"] == hook["state"]["best"]["toy/AP"]["score"]
    assert "train_loop" not in vars(runner)  # nothing that training needs was made
    assert runner.headline({"a/AP": 1.0, "a/text": "x", "b/AP": 2.0}) == {"a/AP": 1.0, "b/AP": 2.0}


@pytest.mark.parametrize(
    ("batch_size", "slots"),
    [(2, 3), (6, 1), (4, 3)],  # as when it began; laid out anew by hand; another iteration, by so many workers still
)
def test_a_run_stays_laid_out_for_the_workers_it_began_with(batch_size: int, slots: int) -> None:
    start = ResumeInfo(state={"sampler": {"batch_size": 6, "slots": 3}, "meta": {"world_size": 2}})
    assert resolve_batch_workers({"train_dataloader": {"batch_size": batch_size}}, start) == slots


def test_an_older_checkpoint_tells_by_its_number_of_processes() -> None:
    assert resolve_batch_workers({}, ResumeInfo(state={"meta": {"world_size": 4}})) == 4
    assert resolve_batch_workers({}, ResumeInfo()) == 1
