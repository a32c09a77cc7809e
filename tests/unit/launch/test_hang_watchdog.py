"""The watch over progress, in real processes: what hangs ends in time with its stack, what moves does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raydet3d.launch.hang_watchdog import EXIT, HangWatchdogHook, read_stacks

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from types import SimpleNamespace
from raydet3d.launch.hang_watchdog import HangWatchdogHook

hook = HangWatchdogHook(2.0)
world = int(sys.argv[3])
hook.before_run(SimpleNamespace(log_dir=Path(sys.argv[1]), rank=0, world_size=world))

def wait_for_the_others():
    if sys.argv[2] == "holds":  # the interpreter, so that no thread of python runs
        import ctypes
        ctypes.PyDLL(None).sleep(60)
    time.sleep(60)

for _ in range(30):
    time.sleep(0.1)
    hook._touch()
if sys.argv[2] == "moves":
    hook.close()
    sys.exit(0)
wait_for_the_others()
"""


def run(folder: Path, how: str, world: int) -> tuple[int, float]:
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(folder), how, str(world)]
    process = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    return process.returncode, time.monotonic() - began


def test_progress_leaves_no_file(tmp_path: Path) -> None:
    assert run(tmp_path, "moves", 2)[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("how", "world", "code"), [("waits", 2, EXIT), ("holds", 1, 1)])
def test_hang_ends_the_process_with_its_stack(tmp_path: Path, how: str, world: int, code: int) -> None:
    before = time.time()
    found, took = run(tmp_path, how, world)
    assert found == code
    assert took < 30
    (text,) = read_stacks(tmp_path, since=before)
    assert text.startswith("rank0:\n")
    assert "wait_for_the_others" in text
    assert read_stacks(tmp_path, since=time.time() + 1) == []  # a stack of an earlier try


def test_stack_is_written_while_the_interpreter_lock_is_held(tmp_path: Path) -> None:
    # It cannot end itself; the others do, and the launcher ends it. Here nobody does: a short sleep stands for it.
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "holds", "2"], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 30
    try:
        while not read_stacks(tmp_path, since=0) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert "wait_for_the_others" in read_stacks(tmp_path, since=0)[0]


def test_ranks_that_close_together_tolerate_the_removed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder goes with the last file in it; whoever comes second finds it gone."""
    rmdir = Path.rmdir

    def second(path: Path) -> None:
        rmdir(path)
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", second)
    hooks = [HangWatchdogHook(60.0) for _ in range(2)]
    for rank, hook in enumerate(hooks):
        hook.before_run(cast("Any", SimpleNamespace(log_dir=tmp_path, rank=rank, world_size=2)))
    for hook in hooks:
        hook.close()
    assert list(tmp_path.iterdir()) == []
