"""`prepare custom`: database, processes, what is prepared again, and a stop in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raydet3d.data.prepare import prepare_custom
from raydet3d.data.prepare.__main__ import main
from raydet3d.info_file import read_infos
from tests.kit.close import assert_close
from tests.kit.strange_recorder import write_strange_folder

ROOT = Path(__file__).resolve().parents[2]


def outputs(root: Path) -> dict[str, bytes]:
    """Everything that prepare writes, but for its own notes."""
    made = [path for path in sorted(root.rglob("*")) if path.is_file()]
    names = {path.relative_to(root).as_posix(): path for path in made}
    return {name: path.read_bytes() for name, path in names.items() if name.startswith(("custom_", "points_prepared"))}


def test_the_database_holds_each_training_object_with_the_points_of_its_sweeps(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=2, val=1, sweeps=2, velocities=True)
    prepare_custom(root)
    database = read_infos(root / "custom_dbinfos_train.pkl")
    frames = read_infos(root / "custom_infos_train.pkl")["data_list"]
    packed = np.fromfile(root / "custom_gt_database.bin", np.float32).reshape(-1, 5)
    entries = [entry for found in database.values() for entry in found]
    assert len(entries) == sum(len(frame["instances"]) for frame in frames)
    for entry in entries:
        frame = next(one for one in frames if one["sample_idx"] == entry["image_idx"])
        own = frame["instances"][entry["gt_idx"]]
        assert_close(entry["box3d_lidar"], [*own["bbox_3d"], *own["velocity"]], atol=1e-5)
        # The town stands still: each of the two sweeps sees the same points.
        assert abs(entry["num_points_in_gt"] - 3 * own["num_lidar_pts"]) <= 6
        points = packed[entry["offset"] :][: entry["num_points_in_gt"]]
        assert np.array_equal(points, np.fromfile(root / entry["path"], np.float32).reshape(-1, 5))
        assert np.abs(points[:, :2]).max() < np.hypot(*entry["box3d_lidar"][3:5]) / 2
        assert set(np.round(points[:, 4], 3)) <= {np.float32(0), np.float32(0.1), np.float32(0.2)}


def test_processes_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_strange_folder(tmp_path / "one", formats=("pcd-ascii", "bin"), sweeps=1)
    two = write_strange_folder(tmp_path / "two", formats=("pcd-ascii", "bin"), sweeps=1)
    prepare_custom(one)
    assert main(["custom", str(two), "--workers", "2"]) == 0
    assert outputs(one) == outputs(two)
    assert "4 frames in custom_infos_train.pkl" in capsys.readouterr().out


def written(root: Path) -> dict[str, int]:
    """When each prepared cloud was written."""
    return {path.stem: path.stat().st_mtime_ns for path in (root / "points_prepared").rglob("*.bin")}


def test_only_what_changed_is_prepared_again(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s")
    prepare_custom(root)
    first, times = outputs(root), written(root)
    label = root / "labels/drive0/0002.json"
    content = label.read_text()
    label.write_text(json.dumps({"objects": []}))
    (root / "points_prepared/drive0/0001.bin").write_bytes(b"")
    prepare_custom(root)
    assert {name for name, time in written(root).items() if time != times[name]} == {"0001", "0002"}
    assert outputs(root) != first
    label.write_text(content)
    prepare_custom(root)
    assert outputs(root) == first
    # Other conventions concern every frame.
    times = written(root)
    settings = json.loads((root / "dataset.json").read_text())
    settings["classes"]["car"]["labels"].append("LKW")
    (root / "dataset.json").write_text(json.dumps({**settings, "ignore": []}))
    prepare_custom(root)
    assert all(time != times[name] for name, time in written(root).items())


def test_a_killed_preparation_goes_on(tmp_path: Path) -> None:
    one = write_strange_folder(tmp_path / "one", train=30, formats=("pcd-ascii",))
    prepare_custom(one)
    two = write_strange_folder(tmp_path / "two", train=30, formats=("pcd-ascii",))
    command = [sys.executable, "-m", "raydet3d.data.prepare", "custom", str(two), "--workers", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = two / ".prepare.journal"
    deadline = time.monotonic() + 60
    while not (journal.is_file() and len(journal.read_bytes().splitlines()) > 4):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (two / "custom_infos_train.pkl").exists()
    prepare_custom(two)
    assert outputs(one) == outputs(two)


def truncate_cloud(root: Path) -> str:
    path = root / "points/drive0/0001.pcd"
    path.write_bytes(path.read_bytes()[:-7])
    return path.name


def ask_for_another_column(root: Path) -> str:
    settings = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**settings, "features": ["x", "y", "z", "ring"]}))
    return "ring"


def name_a_missing_frame(root: Path) -> str:
    (root / "splits/val.txt").write_text("drive9/0000\n")
    return "drive9/0000"


def change_object(key: str, value: object) -> Callable[[Path], str]:
    def change(root: Path) -> str:
        path = root / "labels/drive0/0001.json"
        content = json.loads(path.read_text())
        content["objects"][0][key] = value
        path.write_text(json.dumps(content))
        return f"{path.name} object 0"

    return change


@pytest.mark.parametrize(
    "break_folder",
    [
        pytest.param(truncate_cloud, id="unreadable cloud"),
        pytest.param(ask_for_another_column, id="wrong columns"),
        pytest.param(name_a_missing_frame, id="missing frame"),
        pytest.param(change_object("class", "PKV"), id="unknown class"),
        pytest.param(change_object("size", [0, 420, 150]), id="size of zero"),
    ],
)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_bad_input_is_one_line_and_exit_2(break_folder: Callable[[Path], str], workers: str, tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=3, val=1)
    named = break_folder(root)
    command = [sys.executable, "-m", "raydet3d.data.prepare", "custom", str(root), "--workers", workers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("raydet3d: error: ")]
    assert named in line
    assert "Traceback" not in done.stderr
