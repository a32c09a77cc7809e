"""`data.check` as a command: it is stopped and killed in the middle, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.tiny_kitti import write_kitti

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 1200


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 frames, links to 20 different ones: some seconds of work."""
    root = write_kitti(tmp_path_factory.mktemp("long") / "kitti", train=20, val=0, num_points=4000)
    names = [f"{number:06d}" for number in range(FRAMES)]
    for kind, suffix in (("velodyne", "bin"), ("label_2", "txt"), ("calib", "txt")):
        folder = root / "training" / kind
        for number, name in enumerate(names[20:]):
            (folder / f"{name}.{suffix}").symlink_to(folder / f"{names[number % 20]}.{suffix}")
    (root / "ImageSets" / "train.txt").write_text("\n".join(names) + "\n")
    return root


def command(root: Path, out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "raydet3d.data.check", str(root), "--out", str(out), "--pictures", "0", *flags]


def run(root: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(root, out, *flags), cwd=ROOT, capture_output=True, text=True, timeout=300)


def num_done(out: Path) -> int:
    """Jobs in the journal, whose first line is its version."""
    journal = out / ".check.journal"
    return journal.read_bytes().count(b"\n") - 1 if journal.is_file() else 0


def interrupt(root: Path, out: Path, number: signal.Signals) -> int:
    """Start a check, send a signal once four more jobs are in the journal; return the exit code."""
    goal = num_done(out) + 4
    process = subprocess.Popen(command(root, out, "--workers", "2"), cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while num_done(out) < goal:
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.wait(timeout=60)


def test_a_stopped_and_a_killed_check_go_on_where_they_were(long_folder: Path, tmp_path: Path) -> None:
    whole = run(long_folder, tmp_path / "whole", "--workers", "2", "--json", str(tmp_path / "whole.json"))
    assert whole.returncode == 0, whole.stderr
    jobs = num_done(tmp_path / "whole")
    assert interrupt(long_folder, tmp_path / "out", signal.SIGTERM) == 75
    done = num_done(tmp_path / "out")
    assert 4 <= done < jobs
    assert interrupt(long_folder, tmp_path / "out", signal.SIGKILL) == -signal.SIGKILL
    more = num_done(tmp_path / "out")
    assert done + 4 <= more < jobs
    rest = run(long_folder, tmp_path / "out", "--workers", "2", "--json", str(tmp_path / "rest.json"))
    assert rest.returncode == 0, rest.stderr
    assert f"{32 * more}/{FRAMES}" in rest.stderr.splitlines()[0]
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "rest")]
    assert found[0] == found[1]


def test_a_second_check_into_the_same_folder_is_refused(long_folder: Path, tmp_path: Path) -> None:
    first = subprocess.Popen(command(long_folder, tmp_path / "out", "--workers", "1"), cwd=ROOT)
    try:
        while not num_done(tmp_path / "out"):
            assert first.poll() is None
            time.sleep(0.01)
        second = run(long_folder, tmp_path / "out")
        assert second.returncode == 2
        assert "--out" in second.stderr
    finally:
        first.terminate()
        first.wait(timeout=60)
