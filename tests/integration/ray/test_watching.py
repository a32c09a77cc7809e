"""A rank that hangs and a rank that is slow, on real workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.runs import PATIENCE, assert_same_weights, finish, starts, write_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_hang_is_logged_with_stacks_and_tried_again(tmp_path: Path) -> None:
    whole = finish(write_config(tmp_path / "whole"), "--workers", 2)
    hang = {"type": "Hang", "rank": 1, "at": 10, "marker": str(tmp_path / "hung")}
    run = finish(write_config(tmp_path / "part", hang), "--workers", 2, "--ray", f"hang_timeout_s={10 * PATIENCE:g}")
    text = run.text()
    assert f"the run made no progress for {10 * PATIENCE:g} s; each rank's stack (in full in" in text
    stacks = text[text.index("each rank's stack") :]
    rank0, rank1 = stacks[stacks.index("rank0:") :].split("rank1:", 1)
    assert "backward" in rank0  # waits in the gradient exchange
    assert "wait_for_godot" in rank1[:4000]
    assert "the run hung; starting again from the newest checkpoint, restart 1 of 3" in text
    assert [line["why"] for line in starts(run.work_dir)] == ["", "the run hung"]
    assert_same_weights(run.work_dir, whole.work_dir, 36)


def test_straggler_and_throughput_are_logged(tmp_path: Path) -> None:
    steady, slow = {"type": "Slow", "seconds": 0.2, "rank": 0}, {"type": "Slow", "seconds": 0.5, "rank": 1}
    run = finish(write_config(tmp_path, steady, slow), "--workers", 2)
    ratio = re.search(r"straggler: rank 1 takes (\d\.\d) times as long as the others", run.text())
    assert ratio is not None
    assert 2.0 <= float(ratio[1]) <= 2.9
    assert "straggler: rank 0" not in run.text()
    assert re.search(r"throughput: \d+\.\d samples/s; .*rank 0 .*, rank 1", run.text())
    events = next(run.work_dir.glob("*/vis_data/**/events.out.tfevents*")).read_bytes()
    for name in (b"run/restarts", b"run/redone_iterations", b"workers/1/samples_per_s", b"workers/straggler"):
        assert name in events
