"""`prepare nuscenes`: what it writes, geometry of sweeps and velocities, resuming, what it refuses."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.cli import run_command
from raydet3d.data import NuScenesDataset
from raydet3d.data.prepare import nuscenes_frames, prepare_nuscenes
from raydet3d.data.prepare.__main__ import main
from raydet3d.errors import InputError
from raydet3d.files import locked
from raydet3d.info_file import read_infos
from raydet3d.ops.points import points_in_boxes
from tests.kit.close import assert_close
from tests.kit.tiny_nuscenes import OBJECTS, VERSION, Tables, write_nuscenes

ROOT = Path(__file__).resolve().parents[2]
PREFIX = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", "img": ""}


def outputs(root: Path) -> dict[str, bytes]:
    """Everything that prepare writes, but for its own notes."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("nuscenes_*")) if path.is_file()
    } | {path.name: path.read_bytes() for path in (root / "nuscenes_gt_database").glob("*.bin")}


def prepared(tmp_path: Path, change: Callable[[Tables], None] | None = None) -> Path:
    root = write_nuscenes(tmp_path / "nuscenes", change=change)
    prepare_nuscenes(root, version=VERSION)
    return root


def dataset(root: Path, split: str, **changes: Any) -> NuScenesDataset:
    pipeline = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
        {"type": "LoadPointsFromMultiSweeps", "sweeps_num": 10, "use_dim": 5, "remove_close": True},
    ]
    cfg = {"data_root": str(root), "ann_file": f"nuscenes_infos_{split}.pkl", "pipeline": pipeline}
    return NuScenesDataset(**{**cfg, "data_prefix": PREFIX, "use_valid_flag": True, **changes})


def test_the_data_set_reads_what_was_prepared_and_boxes_hold_their_points(tmp_path: Path) -> None:
    train = dataset(prepared(tmp_path), "train")
    assert len(train) == 3
    assert train.metainfo["version"] == VERSION
    detected = [item for item in OBJECTS if item[0] not in ("animal", "static_object.bicycle_rack")]
    for number in range(3):
        sample = train[number]
        boxes = sample["ann_info"]["gt_bboxes_3d"].tensor.numpy().astype(np.float64)
        assert len(boxes) == len(detected)
        key = sample["points"][sample["points"][:, 4] == 0]
        inside = points_in_boxes(key[:, :3].astype(np.float64), boxes[:, :7]).sum(0)
        assert inside.tolist() == [item[6] for item in detected]


def test_standing_objects_keep_the_points_of_all_sweeps_and_moving_ones_trail_them(tmp_path: Path) -> None:
    """Sweeps are where they were measured although the car turns, and velocities are what the points did."""
    sample = dataset(prepared(tmp_path), "train")[2]
    points = sample["points"].astype(np.float64)
    boxes = sample["ann_info"]["gt_bboxes_3d"].tensor.numpy().astype(np.float64)
    lags = np.unique(points[:, 4])
    assert_close(lags, 0.1 * np.arange(11), atol=1e-5)
    detected = [item for item in OBJECTS if item[0] not in ("animal", "static_object.bicycle_rack")]
    assert {item[5] for item in detected} >= {0.0, 6.0, 1.4}
    for lag in lags:
        then = points[points[:, 4] == lag][:, :3]
        moved = boxes[:, :7].copy()
        moved[:, :2] -= boxes[:, 7:9] * lag
        moved[:, 3:6] *= 1.02  # the car pitches a little
        assert points_in_boxes(then, moved).sum(0).tolist() == [item[6] for item in detected]
    assert_close(np.hypot(*boxes[:, 7:9].T), [item[5] for item in detected], atol=1e-3)


def test_the_database_holds_each_training_object_twice_over(tmp_path: Path) -> None:
    root = prepared(tmp_path)
    infos = read_infos(root / "nuscenes_dbinfos_train.pkl")
    assert set(infos) == {"car", "truck", "pedestrian", "barrier", "traffic_cone", "bicycle", "bus"}
    packed = np.fromfile(root / "nuscenes_gt_database.bin", np.float32).reshape(-1, 5)
    for entries in infos.values():
        for entry in entries:
            single = np.fromfile(root / entry["path"], np.float32).reshape(-1, 5)
            assert len(single) == entry["num_points_in_gt"]
            assert_close(packed[entry["offset"] : entry["offset"] + len(single)], single)
            assert entry["box3d_lidar"].shape == (9,)
            assert (entry["channels"], entry["difficulty"]) == (5, 0)
    # A parked car has the points of the keyframe and of all sweeps: 1, 6 and 11 of them, or 11 times the keyframe.
    parked = sorted(entry["num_points_in_gt"] for entry in infos["car"] if abs(entry["box3d_lidar"][7:]).max() < 1e-3)
    assert parked == [6 * 25, 11 * 25, 11 * 25]
    names = {entry["path"] for entries in infos.values() for entry in entries}
    assert len(names) == sum(map(len, infos.values()))
    assert {Path(name).name for name in names} == {path.name for path in (root / "nuscenes_gt_database").iterdir()}


def test_processes_and_stops_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = prepared(tmp_path / "alone")
    expected = outputs(root)
    assert len(expected) > 30
    both = write_nuscenes(tmp_path / "two" / "nuscenes")
    prepare_nuscenes(both, version=VERSION, workers=2)
    assert outputs(both) == expected
    stopped = write_nuscenes(tmp_path / "stopped" / "nuscenes")
    real = nuscenes_frames.make_frame
    seen = []

    def stop_in_the_second_scene(frame: Any) -> Any:
        seen.append(frame.token)
        if frame.token == "sample-1-1":
            raise KeyboardInterrupt
        return real(frame)

    monkeypatch.setattr(nuscenes_frames, "make_frame", stop_in_the_second_scene)
    with pytest.raises(KeyboardInterrupt):
        prepare_nuscenes(stopped, version=VERSION)
    monkeypatch.setattr(nuscenes_frames, "make_frame", lambda frame: (seen.append(frame.token), real(frame))[1])
    seen.clear()
    prepare_nuscenes(stopped, version=VERSION)
    assert seen == ["sample-1-0", "sample-1-1"]
    assert outputs(stopped) == expected
    seen.clear()
    prepare_nuscenes(stopped, version=VERSION)
    assert not seen
    # An output that is gone, or other tables, are prepared again.
    (stopped / "nuscenes_infos_val.pkl").unlink()
    prepare_nuscenes(stopped, version=VERSION)
    assert outputs(stopped) == expected
    assert not list(stopped.glob(".prepare.v1.0-mini/*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_command_and_the_same_command_continues(tmp_path: Path, number: signal.Signals) -> None:
    root = write_nuscenes(tmp_path / "nuscenes")
    words = [
        sys.executable,
        "-m",
        "raydet3d.data.prepare",
        "nuscenes",
        str(root),
        "--version",
        VERSION,
        "--workers",
        "2",
    ]
    running = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (root / ".prepare.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode in ({signal.SIGTERM: 75, signal.SIGINT: 130}[number], 0)
    assert subprocess.run(words, cwd=ROOT, capture_output=True, timeout=120, check=False).returncode == 0
    prepare_nuscenes(write_nuscenes(tmp_path / "whole" / "nuscenes"), version=VERSION)
    assert outputs(root) == outputs(tmp_path / "whole" / "nuscenes")


def test_the_command_prints_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_nuscenes(tmp_path / "nuscenes")
    assert main(["nuscenes", str(root), "--version", VERSION, "--workers", "0"]) == 0
    assert "3 frames of 1 scenes in nuscenes_infos_train.pkl" in capsys.readouterr().out
    assert main(["nuscenes", str(root), "--version", VERSION, "--workers", "0"]) == 0
    assert "is prepared already" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert "raydet3d" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nuscenes", "{root}"], "v1.0-trainval: no such folder of tables; there is v1.0-mini"),
        (["nuscenes", "{root}", "--version", "v1.0-mni"], "did you mean 'v1.0-mini'"),
        (["nuscenes", "{root}/none", "--version", "v1.0-mini"], "no such folder of tables"),
        (["kitti", "{root}", "--version", "v1.0-mini"], "kitti has no versions"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    root = write_nuscenes(tmp_path / "nuscenes")
    with pytest.raises(SystemExit) as stop:
        run_command(partial(main, [word.format(root=root) for word in arguments]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def drop(table: str, index: int = -1) -> Callable[[Tables], None]:
    return lambda tables: tables[table].pop(index) and None


def edit(table: str, key: str, value: Any, index: int = -1) -> Callable[[Tables], None]:
    return lambda tables: tables[table][index].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("ego_pose"), r"sample_data\.json: ego_pose_token of record .* tables do not belong together"),
        (drop("calibrated_sensor", 0), r"calibrated_sensor_token of record .*calibrated_sensor\.json does not have"),
        (drop("sensor"), r"calibrated_sensor\.json: sensor_token"),
        (drop("scene"), r"sample\.json: scene_token"),
        (drop("sample"), r"sample_token of record .*sample\.json does not have"),
        (drop("instance"), r"instance_token of record"),
        (edit("sample_annotation", "prev", "none"), r"sample_annotation\.json: prev of record"),
        (edit("sample_annotation", "size", [1.0, 0.0, 1.0]), r"record ann-1-1-11: size is"),
        (edit("sample_annotation", "translation", [1.0, float("nan"), 1.0]), r"finite numbers"),
        (edit("attribute", "name", "vehicle.flying"), "is none of cycle.with_rider"),
        (edit("scene", "name", "scene-9999"), r"in no split of v1\.0-mini \(first: 'scene-9999'\)"),
    ],
)
def test_tables_that_do_not_belong_together_are_one_line(
    tmp_path: Path, change: Callable[[Tables], None], message: str
) -> None:
    root = write_nuscenes(tmp_path / "nuscenes", change=change)
    with pytest.raises(InputError, match=message):
        prepare_nuscenes(root, version=VERSION)
    assert not list(root.glob("nuscenes_*"))


def test_missing_and_damaged_clouds_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_nuscenes(tmp_path / "nuscenes")
    sweep = root / "sweeps/LIDAR_TOP/scene-0061__3.pcd.bin"
    kept = sweep.read_bytes()
    sweep.unlink()
    with pytest.raises(
        InputError, match=r"scene-0061__3\.pcd\.bin: no such point cloud, but frame sample-0-1 needs it"
    ):
        prepare_nuscenes(root, version=VERSION)
    sweep.write_bytes(kept[:-3])
    with pytest.raises(InputError, match=r"scene-0061__3\.pcd\.bin: .* not a multiple of the 20 bytes"):
        prepare_nuscenes(root, version=VERSION)
    sweep.write_bytes(kept)
    (root / "samples/LIDAR_TOP/scene-0103__0.pcd.bin").unlink()
    with caplog.at_level("WARNING", logger="raydet3d"):
        prepare_nuscenes(root, version=VERSION)
    assert "1 of 2 scenes have no point clouds (first: scene-0103) and are left out" in caplog.text
    assert len(read_infos(root / "nuscenes_infos_val.pkl")["data_list"]) == 0
    for path in (root / "samples/LIDAR_TOP").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="download the LiDAR blobs"):
        prepare_nuscenes(root, version=VERSION)


def test_scenes_of_ones_own_are_split_by_a_file(tmp_path: Path) -> None:
    root = write_nuscenes(tmp_path / "nuscenes", change=edit("scene", "name", "my street"))
    (root / VERSION / "splits.json").write_text(json.dumps({"train": ["my street"], "val": ["scene-0061"]}))
    prepare_nuscenes(root, version=VERSION)
    assert len(read_infos(root / "nuscenes_infos_train.pkl")["data_list"]) == 2
    assert len(read_infos(root / "nuscenes_infos_val.pkl")["data_list"]) == 3
    (root / VERSION / "splits.json").write_text("[]")
    with pytest.raises(InputError, match=r"splits\.json: must be"):
        prepare_nuscenes(root, version=VERSION)


def test_test_data_have_no_annotations(tmp_path: Path) -> None:
    def strip(tables: Tables) -> None:
        tables["sample_annotation"], tables["instance"] = [], []
        for scene, name in zip(tables["scene"], ("scene-0077", "scene-0078"), strict=True):
            scene["name"] = name

    root = write_nuscenes(tmp_path / "nuscenes", change=strip)
    (root / VERSION).rename(root / "v1.0-test")
    prepare_nuscenes(root, version="v1.0-test")
    frames = read_infos(root / "nuscenes_infos_test.pkl")["data_list"]
    assert [frame["sample_idx"] for frame in frames] == [0, 1, 2, 3, 4]
    assert all(frame["instances"] == [] and "cam_instances" not in frame for frame in frames)
    assert not (root / "nuscenes_dbinfos_train.pkl").exists()
    assert len(dataset(root, "test", test_mode=True)[4]["points"]) > 50


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    root = write_nuscenes(tmp_path / "nuscenes")
    with (
        locked(root / ".prepare.lock", timeout_s=0, busy=""),
        pytest.raises(InputError, match="another process is preparing"),
    ):
        prepare_nuscenes(root, version=VERSION)
