"""`prepare --ray`: the files are those that one process writes; a bad scene is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raydet3d.cli import run_command
from raydet3d.data.prepare import prepare_custom, prepare_kitti, prepare_nuscenes
from raydet3d.data.prepare.__main__ import main
from tests.kit.strange_recorder import write_strange_folder
from tests.kit.tiny_kitti import write_kitti
from tests.kit.tiny_nuscenes import VERSION, write_nuscenes

pytestmark = pytest.mark.ray


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    return int(ended.value.code or 0)


def written(root: Path, prefix: str) -> dict[str, bytes]:
    """Content of the info files and of the database."""
    files = [*root.glob(f"{prefix}_*.pkl"), *root.glob(f"{prefix}_gt_database*/**/*"), *root.glob("*.bin")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.usefixtures("two_cpus")
def test_files_are_those_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "ray"):
        write_nuscenes(tmp_path / name / "nuscenes")
        write_kitti(tmp_path / name / "kitti")
        write_strange_folder(tmp_path / name / "custom", sweeps=1)
    prepare_nuscenes(tmp_path / "here/nuscenes", version=VERSION)
    prepare_kitti(tmp_path / "here/kitti")
    prepare_custom(tmp_path / "here/custom")
    assert run(monkeypatch, "nuscenes", tmp_path / "ray/nuscenes", "--version", VERSION, "--ray") == 0
    assert run(monkeypatch, "kitti", tmp_path / "ray/kitti", "--ray", "--workers", 1) == 0
    assert run(monkeypatch, "custom", tmp_path / "ray/custom", "--ray") == 0
    for name in ("nuscenes", "kitti", "custom"):
        here = written(tmp_path / "here" / name, name)
        assert len(here) > 10
        assert written(tmp_path / "ray" / name, name) == here
    # What is prepared already needs no cluster.
    assert run(monkeypatch, "nuscenes", tmp_path / "ray/nuscenes", "--version", VERSION, "--ray") == 0


@pytest.mark.usefixtures("two_cpus")
def test_damaged_cloud_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_nuscenes(tmp_path / "nuscenes")
    cloud = root / "samples/LIDAR_TOP/scene-0061__0.pcd.bin"
    cloud.write_bytes(cloud.read_bytes()[:-3])
    assert run(monkeypatch, "nuscenes", root, "--version", VERSION, "--ray") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("raydet3d: error")]
    assert "scene-0061__0.pcd.bin" in line
    assert "not a multiple" in line
