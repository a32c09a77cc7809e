"""Looks of real ranks at each other: a stop, a slow rank, throughput; against what was planted."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d import dist
from raydet3d.hooks import Hook
from raydet3d.launch.rank_sync import RankSyncHook, StepTimer
from raydet3d.launch.signals import Stopped
from raydet3d.runtime import assemble
from tests.kit.faults import Slow
from tests.kit.spawn import run_ranks
from tests.kit.toy import toy_cfg

QUIET = {"type": "CheckpointHook", "save_last": False}


def train(folder: str, changes: dict[str, Any], asked_at: int, rank: int, options: dict[str, Any]) -> Any:
    """Train on a rank; one rank is asked to stop once it has come to an iteration. What it left with."""
    torch.set_num_threads(1)
    pace, seen = StepTimer(), Seen()

    def asked() -> str | None:
        there = seen.validated if asked_at >= 1000 else seen.iteration
        return "SIGTERM" if dist.get_rank() == rank and there >= asked_at else None

    runner = assemble(toy_cfg(Path(folder), **changes), extra_hooks=[seen, pace, RankSyncHook(asked, pace, **options)])
    try:
        runner.train()
    except Stopped as stopped:
        runner.close()
        return (stopped.reason, stopped.iteration, stopped.checkpoint)
    return None


class Seen(Hook):
    """Knows the iteration, also while it runs."""

    iteration = validated = -1

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.iteration = runner.iter + 1

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.validated = 1000 + runner.iter


def test_all_ranks_stop_at_the_same_iteration(tmp_path: Path) -> None:
    first, second = run_ranks(train, 2, str(tmp_path), {"default_hooks__checkpoint": QUIET}, 8, 1, {"interval_s": 0.0})
    assert first == second == ("SIGTERM", 8, str(tmp_path / "stop_iter_8.pth"))
    state = torch.load(tmp_path / "stop_iter_8.pth", weights_only=True)
    assert state["progress"] == {"epoch": 1, "iter": 8, "round": 1, "batch": 2, "validated": 6}
    assert "asked to stop (SIGTERM): saving iteration 8" in next(tmp_path.glob("*/*.log")).read_text()


@pytest.mark.parametrize("saved", [True, False])
def test_stop_within_a_validation_uses_the_existing_checkpoint(tmp_path: Path, saved: bool) -> None:
    # Nine samples on two ranks: one has a batch more than the other would have alone.
    every = {"type": "CheckpointHook", "interval": 1 if saved else 2}
    left = run_ranks(train, 2, str(tmp_path), {"default_hooks__checkpoint": every}, 1006, 0, {"interval_s": 0.0})
    if saved:  # the epoch's checkpoint is of this very point
        assert left == [("SIGTERM", 6, str(tmp_path / "epoch_1.pth"))] * 2
    else:  # the validation is finished first
        assert left == [("SIGTERM", 7, str(tmp_path / "stop_iter_7.pth"))] * 2


def test_syncs_are_rare_for_short_iterations(tmp_path: Path) -> None:
    looks = []

    def asked() -> None:
        looks.append(time.perf_counter())

    pace = StepTimer()
    runner = assemble(
        toy_cfg(tmp_path, train_cfg={"max_epochs": 40, "val_interval": 100}, default_hooks__checkpoint=QUIET),
        extra_hooks=[pace, RankSyncHook(asked, pace, interval_s=0.2)],
    )
    began = time.perf_counter()
    runner.train()
    # 480 iterations; the first look is after the first, the second guesses the pace from that one.
    assert 2 <= len(looks) <= 4 + (time.perf_counter() - began) / 0.1


def test_straggler_and_throughput_are_logged(tmp_path: Path) -> None:
    slow = {"type": Slow, "seconds": 0.06, "rank": 1}
    steady = {"type": Slow, "seconds": 0.03, "rank": 0}
    changes = {
        "train_cfg": {"max_epochs": 8, "val_interval": 100},
        "custom_hooks": [slow, steady],
        "default_hooks__checkpoint": QUIET,
        "visualizer": {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
    }
    options = {"interval_s": 0.1, "window_s": 0.6, "report_s": 1.2}
    assert run_ranks(train, 2, str(tmp_path), changes, 10**9, 0, options) == [None, None]
    log = next(tmp_path.glob("*/*.log")).read_text()
    named = re.findall(r"straggler: rank (\d) takes (\d+\.\d) times as long as the others", log)
    assert [rank for rank, _ in named] == ["1"]  # once, not at every look
    assert 1.6 <= float(named[0][1]) <= 2.4  # 60 ms against 30 ms, and the work of both
    rates = re.findall(r"throughput: (\d+\.\d) samples/s.* rank 0 (\d+\.\d) .*, rank 1 (\d+\.\d)", log)
    assert rates
    for total, one, other in rates:
        assert 20 <= float(total) <= 4 / 0.06
        assert abs(float(one) + float(other) - float(total)) < 0.3
    scalars = "".join(path.read_text() for path in tmp_path.glob("*/vis_data/*.json"))
    assert '"workers/1/samples_per_s"' in scalars
    assert '"workers/straggler"' in scalars


def test_equal_ranks_are_not_logged_as_stragglers(tmp_path: Path) -> None:
    changes = {
        "train_cfg": {"max_epochs": 6, "val_interval": 100},
        "custom_hooks": [{"type": Slow, "seconds": 0.05}],
        "default_hooks__checkpoint": QUIET,
    }
    run_ranks(train, 2, str(tmp_path), changes, 10**9, 0, {"interval_s": 0.1, "window_s": 0.6})
    assert "straggler" not in next(tmp_path.glob("*/*.log")).read_text()
