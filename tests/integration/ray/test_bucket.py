"""A run on Ray whose work dir is behind a URI: a worker is killed, the command is stopped, another machine resumes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.kit.runs import Run, assert_same_weights, finish, steps_that_count, write_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_run_behind_a_uri_resumes_on_another_machine(tmp_path: Path) -> None:
    whole = finish(write_config(tmp_path / "whole"), "--workers", 2)
    there = tmp_path / "bucket" / "run"
    death = {"type": "KillAt", "rank": 1, "at": [7], "folder": str(tmp_path / "deaths")}
    config = write_config(tmp_path, {"type": "Slow", "seconds": 0.1}, death)
    uri = ("--work-dir", f"local://{there}")
    here, elsewhere = ({"TMPDIR": str(tmp_path / name), "RAY_TMPDIR": "/tmp"} for name in ("one", "other"))
    for machine in (here, elsewhere):
        Path(machine["TMPDIR"]).mkdir()

    first = Run(config, "--workers", 2, *uri, env=here)
    trace = tmp_path / "samples" / "rank0.jsonl"
    first.until(lambda: trace.exists() and trace.read_text().count("\n") > 20)
    first.signal(signal.SIGTERM)
    assert first.wait() == 75, first.text()
    assert "restart 1 of 3" in first.text()
    assert f"Saved: local://{there}/stop_iter_" in first.text()

    second = finish(config, "--workers", 2, *uri, env=elsewhere)
    assert_same_weights(there, whole.work_dir, 36)
    assert steps_that_count(tmp_path / "samples") == steps_that_count(whole.folder / "samples")
    assert f"Last checkpoint: local://{there}/iter_36.pth" in second.text()
    assert not list(there.glob("stop_*"))
    assert not list(there.glob(".ray/*"))
    history = [json.loads(line) for line in (there / "scalars.json").read_text().splitlines()]
    assert history[-1]["iter"] == 36
    assert len([path for path in there.glob("*/*.log") if path.name != "ray.log"]) == 2  # Ray's lines on the death
    third = finish(config, "--workers", 2, *uri, env=elsewhere)
    assert "nothing to do" in third.text()
