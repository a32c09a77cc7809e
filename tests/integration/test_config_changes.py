"""On resume, what the config says now holds, and the log says what has changed: F10, F11, F12.

Against the run that had the new config from its start: learning rates of all iterations that are still to come.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.hooks import Hook
from raydet3d.registry import DATA_SAMPLERS
from raydet3d.runtime import assemble
from tests.kit.spawn import run_ranks
from tests.kit.toy import toy_cfg

SCHEDULE = [
    {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 5},
    {"type": "CosineAnnealingLR", "eta_min": 1e-5, "convert_to_iter_based": True},
    {"type": "MultiStepLR", "milestones": [1, 3], "gamma": 0.5},
    {"type": "CosineAnnealingMomentum", "eta_min": 0.8, "convert_to_iter_based": True},
]


class Rates(Hook):
    """Keeps learning rate and momentum of each iteration, by its number within the run."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[float, float]] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        wrapper = runner.optim_wrapper
        self.seen[runner.epoch * len(runner.train_dataloader) + batch_idx] = (
            wrapper.get_lr()["lr"][0],
            wrapper.get_momentum()["momentum"][0],
        )


def run(folder: Path, resume: str = "", **changes: Any) -> tuple[dict[int, tuple[float, float]], str, Any]:
    """Rates, log and result of a run of 24 samples; 12 iterations an epoch, unless told otherwise."""
    rates = Rates()
    changes = {"param_scheduler": SCHEDULE, "custom_hooks": [rates], **changes}
    runner = assemble(toy_cfg(folder, **changes), resume=resume)
    runner.train()
    logs = sorted(folder.glob("*/*.log"))
    return rates.seen, logs[-1].read_text() if logs else "", runner


def after(seen: dict[int, tuple[float, float]], start: int) -> list[tuple[float, float]]:
    return [rates for i, rates in sorted(seen.items()) if i >= start]


def close(ours: list[tuple[float, float]], expected: list[tuple[float, float]]) -> None:
    assert len(ours) == len(expected) > 0
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs at lr 0.01, saved after each."""
    folder = tmp_path_factory.mktemp("before")
    run(folder, train_cfg__max_epochs=2)
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_cfg__max_epochs": 4}, ["CosineAnnealingLR.end: 24 -> 48", "MultiStepLR.end: 2 -> 4"]),
        ({"train_cfg__max_epochs": 4, "optim_wrapper__optimizer__lr": 0.1}, ["lr: 0.01 -> 0.1"]),
        ({"train_cfg__max_epochs": 4, "param_scheduler": SCHEDULE[:2]}, ["MultiStepLR is gone"]),
        ({"train_cfg__max_epochs": 4, "optim_wrapper__paramwise_cfg": {"bias_lr_mult": 2.0}}, ["end: 24 -> 48"]),
    ],
)
def test_f10_another_length_rate_or_schedule(
    before: Path, tmp_path: Path, changes: dict[str, Any], said: list[str]
) -> None:
    """F10: MMEngine restores end, milestones and rate with the state, and says nothing."""
    expected, _, _ = run(tmp_path / "whole", **changes)
    ours, log, _ = run(tmp_path / "part", str(before / "epoch_2.pth"), **changes)
    close(after(ours, 24), after(expected, 24))
    for line in said:
        assert f"changed since the checkpoint: {line}" in log or line in log, log


def test_nothing_changed_nothing_said(before: Path, tmp_path: Path) -> None:
    _, log, _ = run(tmp_path, str(before / "epoch_1.pth"), train_cfg__max_epochs=2)
    assert "resumed from" in log
    assert "changed since" not in log


def test_f12_auto_scale_lr_scales_on_resume_too(before: Path, tmp_path: Path) -> None:
    """F12: MMEngine says that it has scaled, and then loads the old rate over it."""
    changes = {"auto_scale_lr": {"enable": True, "base_batch_size": 8}, "train_cfg__max_epochs": 3}
    expected, _, _ = run(tmp_path / "whole", **changes)
    ours, log, runner = run(tmp_path / "part", str(before / "epoch_2.pth"), **changes)
    assert "learning rates times 0.25: batch size 2 x 1 processes over 8" in log
    assert "changed since the checkpoint: lr: 0.01 -> 0.0025" in log
    assert runner.optim_wrapper.param_groups[0]["initial_lr"] == 0.0025
    close(after(ours, 24), after(expected, 24))


def test_f12_another_batch_size(before: Path, tmp_path: Path) -> None:
    """F12: twice the batch is twice the rate, and half as many iterations an epoch; schedules follow the epochs."""
    base = {"auto_scale_lr": {"enable": True, "base_batch_size": 2}, "train_cfg__max_epochs": 4}
    changes = {**base, "train_dataloader__batch_size": 4}
    expected, _, _ = run(tmp_path / "whole", **changes)
    ours, log, runner = run(tmp_path / "part", str(before / "epoch_2.pth"), **changes)
    close(after(ours, 12), after(expected, 12))
    assert "changed since the checkpoint: lr: 0.01 -> 0.02" in log
    assert "the global batch was 2 samples and is 4 now" in log
    # 2 epochs of 12 iterations, and 2 of 6: counted as they were, and the run knows where it ends.
    assert (runner.iter, runner.epoch, runner.max_iters) == (36, 4, 36)


def test_a_schedule_that_lasts_as_long_as_the_run_reaches_its_end(before: Path, tmp_path: Path) -> None:
    changes = {
        "param_scheduler": [{"type": "PolyLR", "by_epoch": False, "eta_min": 1e-4}],
        "train_cfg__max_epochs": 4,
        "train_dataloader__batch_size": 4,
    }
    ours, _, _ = run(tmp_path, str(before / "epoch_2.pth"), **changes)
    # 24 iterations done of 36: from there straight down.
    rates = [lr for lr, _ in after(ours, 12)]
    assert rates == pytest.approx([0.01 + (1e-4 - 0.01) * i / 35 for i in range(24, 36)], rel=1e-6)


def scaled(folder: str, resume: str, epochs: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    changes = {"auto_scale_lr": {"enable": True, "base_batch_size": 2}, "train_cfg__max_epochs": epochs}
    seen, log, runner = run(Path(folder), resume, **changes)
    return {"rates": sorted(seen.items()), "log": log if dist.get_rank() == 0 else "", "end": runner.max_iters}


def test_f11_another_world_size_is_said_and_nothing_else_changes(tmp_path: Path) -> None:
    """F11: MMEngine's check of the world size looks for a key that its files do not have, so it never finds out.

    The global batch stays that of the checkpoint, and with it the iterations of an epoch, the rates and the end.
    """
    run_ranks(scaled, 2, str(tmp_path / "two"), "", 2)
    expected = run_ranks(scaled, 2, str(tmp_path / "whole"), "", 4)[0]
    ours = scaled(str(tmp_path / "one"), str(tmp_path / "two" / "epoch_2.pth"), 4)
    for line in ("changed since the checkpoint: processes: 2 -> 1", "the checkpoint is of 2 processes, this run has 1"):
        assert line in ours["log"], line
    close(after(dict(ours["rates"]), 12), after(dict(expected["rates"]), 12))
    assert ours["end"] == expected["end"] == 4 * 6


class Triples(BatchSampler):
    """A batch sampler of a user's own, that says its batch size."""

    def __init__(self, sampler: Any, batch_size: int) -> None:
        super().__init__(sampler, 3, drop_last=False)


class Silent:
    """One that does not."""

    def __init__(self, sampler: Any, batch_size: int) -> None:
        self.sampler = sampler

    def __iter__(self) -> Any:
        return ([index] for index in self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


def loader_of(kind: type) -> dict[str, Any]:
    cfg = toy_cfg(Path("."))["train_dataloader"]
    return {"batch_sampler": {"type": kind.__name__}, "sampler": cfg["sampler"], "dataset": cfg["dataset"]}


def test_auto_scale_lr_with_a_batch_sampler_and_accumulation(tmp_path: Path) -> None:
    scale = {"enable": True, "base_batch_size": 6}
    with DATA_SAMPLERS.temporary(Triples=Triples, Silent=Silent):
        _, log, runner = run(
            tmp_path / "a",
            train_dataloader=loader_of(Triples),
            auto_scale_lr=scale,
            optim_wrapper__accumulative_counts=2,
            train_cfg__max_epochs=1,
        )
        assert runner.optim_wrapper.param_groups[0]["initial_lr"] == pytest.approx(0.005)
        assert "auto_scale_lr does not count accumulative_counts=2; base_batch_size=3 would" in log
        with pytest.raises(InputError, match="a batch sampler that has an attribute batch_size"):
            run(tmp_path / "b", train_dataloader=loader_of(Silent), auto_scale_lr=scale)
