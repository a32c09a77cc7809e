"""The script for a lent GPU works: a dry run on a CPU takes every step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SCRIPT = REPO / "tests" / "benchmarks" / "gpu_session.py"


def session(out: Path, *flags: str) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, dict[str, object]]]]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--dry-run", "--seconds", "0.1", *flags]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    return done, json.loads((out / "session.json").read_text())


def test_dry_run_takes_every_step(tmp_path: Path) -> None:
    done, result = session(tmp_path, "--models", "second", "--traces")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(result["steps"]) == ["gpu_tests", "second"]
    assert result["steps"]["gpu_tests"]["tests"] > 10
    assert not result["steps"]["gpu_tests"]["failed"]
    speed = json.loads((tmp_path / "second.json").read_text())["speed"]
    assert speed["training"]["samples_per_s"] > 0
    assert speed["inference"]["step_ms"]["p50"] > 0
    assert result["steps"]["second"]["operators"]
    assert (tmp_path / "second.trace.json.gz").stat().st_size > 1000


def test_what_the_time_does_not_allow_is_named(tmp_path: Path) -> None:
    done, result = session(tmp_path, "--minutes", "0.01", "--no-tests", "--models", "pointpillars", "second")
    assert done.returncode == 0, done.stderr
    assert result["left_out"] == ["pointpillars", "second"]
