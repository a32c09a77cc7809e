"""`prepare`: what it writes, what it refuses, and that a stop at any time costs nothing but the frame at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet3d.cli import run_command
from raydet3d.data.prepare import kitti_frames, prepare_kitti
from raydet3d.data.prepare.__main__ import main
from raydet3d.errors import InputError
from raydet3d.files import locked, write_atomic
from raydet3d.info_file import read_infos
from tests.kit.close import assert_close
from tests.kit.tiny_kitti import AXES, P2, write_kitti

ROOT = Path(__file__).resolve().parents[2]


def outputs(root: Path) -> dict[str, bytes]:
    """Everything that prepare writes, but for its own notes."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        made = name.startswith("kitti_") or "velodyne_reduced" in name
        if path.is_file() and made:
            found[name] = path.read_bytes()
    return found


def command(root: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "raydet3d.data.prepare", "kitti", str(root), *arguments]


def test_info_files_have_the_published_layout(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti", planes=True, test=1)
    prepare_kitti(root)
    infos = read_infos(root / "kitti_infos_train.pkl")
    assert infos["metainfo"]["dataset"] == "kitti"
    assert infos["metainfo"]["info_version"] == "1.1"
    categories = infos["metainfo"]["categories"]
    wanted = ["Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc"]
    assert [categories[name] for name in wanted] == list(range(8))
    frame = infos["data_list"][1]
    assert frame["sample_idx"] == 1
    assert set(frame["images"]) == {"CAM0", "CAM1", "CAM2", "CAM3", "R0_rect"}
    camera = frame["images"]["CAM2"]
    assert (camera["img_path"], camera["height"], camera["width"]) == ("000001.png", 375, 1242)
    lidar2cam = np.vstack([AXES, [0, 0, 0, 1]])
    assert_close(camera["lidar2cam"], lidar2cam)
    assert_close(camera["cam2img"], np.vstack([P2, [0, 0, 0, 1]]))
    assert_close(camera["lidar2img"], np.vstack([P2, [0, 0, 0, 1]]) @ lidar2cam)
    assert frame["lidar_points"]["lidar_path"] == "000001.bin"
    assert frame["lidar_points"]["num_pts_feats"] == 4
    assert_close(frame["plane"], [0, -1, 0, 1.7])
    instances = frame["instances"]
    # Only what camera 2 sees, without DontCare; boxes are projections, as image-based models want them.
    assert [one["bbox_label_3d"] for one in frame["cam_instances"]["CAM2"]] == [2, 0, 1, 3]
    assert [one["bbox_label_3d"] for one in instances] == [2, 0, 1, 3, -1]
    assert [one["num_lidar_pts"] for one in instances] == [40, 12, 9, 30, -1]
    assert [one["index"] for one in instances] == [0, 1, 2, 3, -1]
    assert [one["group_id"] for one in instances] == [0, 1, 2, 3, 4]
    assert [one["difficulty"] for one in instances] == [0, 0, 0, 0, -1]
    # The car at LiDAR (11, -3, -1.7), 1.5 m tall: its centre is seen at depth 11, u = 600 + 700 * 3 / 11.
    car = instances[0]
    assert_close(car["bbox_3d"], [3, 1.7, 11, 4, 1.5, 1.6, -0.3 - np.pi / 2], atol=1e-4)
    assert_close([*car["center_2d"], car["depth"]], [600 + 2100 / 11, 180 + 700 * 0.95 / 11, 11], atol=1e-3)
    test = read_infos(root / "kitti_infos_test.pkl")["data_list"]
    assert [frame["sample_idx"] for frame in test] == [0]
    assert "instances" not in test[0]
    assert [len(read_infos(root / f"kitti_infos_{name}.pkl")["data_list"]) for name in ("val", "trainval")] == [2, 6]


def test_reduced_clouds_hold_what_the_camera_sees(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti", train=1, val=0)
    prepare_kitti(root)
    whole = np.fromfile(root / "training/velodyne/000000.bin", np.float32).reshape(-1, 4)
    reduced = np.fromfile(root / "training/velodyne_reduced/000000.bin", np.float32).reshape(-1, 4)
    x, y, z = whole[:, :3].T.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = 600 - 700 * y / x, 180 - 700 * z / x
    seen = (x > 0) & (u > 0) & (u < 1242) & (v > 0) & (v < 375)
    assert 0.1 < seen.mean() < 0.6
    assert_close(reduced, whole[seen])


def test_the_database_holds_each_training_object_twice_over(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    database = read_infos(root / "kitti_dbinfos_train.pkl")
    assert {name: len(found) for name, found in database.items()} == {"Car": 4, "Pedestrian": 4, "Cyclist": 4, "Van": 2}
    packed = np.fromfile(root / "kitti_gt_database.bin", np.float32).reshape(-1, 4)
    entries = [entry for found in database.values() for entry in found]
    assert sorted(entry["group_id"] for entry in entries) == list(range(14))
    for entry in entries:
        points = np.fromfile(root / entry["path"], np.float32).reshape(-1, 4)
        assert (
            len(points)
            == entry["num_points_in_gt"]
            == {"Car": 40, "Pedestrian": 12, "Cyclist": 9, "Van": 30}[entry["name"]]
        )
        assert_close(packed[entry["offset"] :][: len(points)], points)
        assert entry["box3d_lidar"].dtype == np.float32
        # Relative to the bottom centre: never below it, never further off than half a diagonal.
        assert points[:, 2].min() > 0
        assert np.hypot(*points[:, :2].T).max() < np.hypot(*entry["box3d_lidar"][3:5]) / 2
    assert database["Car"][2]["path"] == "kitti_gt_database/2_Car_0.bin"
    assert (database["Car"][2]["image_idx"], database["Car"][2]["gt_idx"], database["Car"][2]["difficulty"]) == (
        2,
        0,
        0,
    )
    assert len(packed) == 4 * (40 + 12 + 9) + 2 * 30


def test_processes_change_nothing_and_report_bad_data(tmp_path: Path) -> None:
    one, two = write_kitti(tmp_path / "one"), write_kitti(tmp_path / "two")
    prepare_kitti(one)
    label = two / "training/label_2/000002.txt"
    content = label.read_text()
    label.write_text("Car 0\n")
    with pytest.raises(InputError, match=r"000002.txt line 1: 2 fields, the field 'occluded' is missing"):
        prepare_kitti(two, workers=2)
    label.write_text(content)
    prepare_kitti(two, workers=2)
    assert outputs(one) == outputs(two)


def test_finished_frames_are_kept_and_changed_ones_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    first = outputs(root)
    before = {name: (root / name).stat().st_mtime_ns for name in first if "velodyne_reduced" in name}
    prepare_kitti(root)
    assert outputs(root) == first
    assert {name: (root / name).stat().st_mtime_ns for name in before} == before
    # A changed label, a lost output and a damaged one.
    label = root / "training/label_2/000002.txt"
    label.write_text(label.read_text().replace("Car", "Van", 1))
    (root / "training/velodyne_reduced/000000.bin").unlink()
    (root / "kitti_gt_database/3_Car_0.bin").write_bytes(b"")
    redone = []

    def watched(job: kitti_frames.FrameJob) -> dict:
        redone.append(job.name)
        return kitti_frames.prepare_frame(job)

    monkeypatch.setattr("raydet3d.data.prepare.kitti.prepare_frame", watched)
    prepare_kitti(root)
    assert redone == ["000000", "000002", "000003"]
    assert len(read_infos(root / "kitti_dbinfos_train.pkl")["Car"]) == 3
    assert (root / "kitti_gt_database/3_Car_0.bin").stat().st_size == 640
    assert "kitti frames: 6/6" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 40])
def test_truncated_journal_is_repaired(tmp_path: Path, cut: int) -> None:
    root, whole = write_kitti(tmp_path / "kitti"), write_kitti(tmp_path / "whole")
    prepare_kitti(root)
    prepare_kitti(whole)
    journal = root / ".prepare.journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    prepare_kitti(root)
    assert outputs(root) == outputs(whole)
    assert len(journal.read_text().splitlines()) == 7
    journal.write_text("not a journal\n")
    prepare_kitti(root)
    assert outputs(root) == outputs(whole)


def test_continues_after_a_kill_at_any_time(tmp_path: Path) -> None:
    whole = write_kitti(tmp_path / "whole", train=40, val=10, num_points=20000)
    prepare_kitti(whole)
    root = write_kitti(tmp_path / "kitti", train=40, val=10, num_points=20000)
    done = 0
    for _ in range(2):
        running = subprocess.Popen(
            command(root, "--workers", "0"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        journal = root / ".prepare.journal"
        # Kill it when it has done some more frames; it may be quicker than we are.
        while running.poll() is None:
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
            if lines > done + 12:
                running.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        running.wait()
        done = journal.read_bytes().count(b"\n")
        for path in root.rglob("*.bin"):
            assert path.stat().st_size % 16 == 0
            if path.parent.name == "velodyne_reduced":
                assert path.read_bytes() == (whole / path.relative_to(root)).read_bytes()
    prepare_kitti(root)
    assert outputs(root) == outputs(whole)


def test_the_command_prints_what_it_wrote_and_refuses_a_missing_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_kitti(tmp_path / "kitti")
    assert main(["kitti", str(root), "--workers", "0"]) == 0
    shown = capsys.readouterr()
    assert "database of 4 Car, 4 Cyclist, 4 Pedestrian, 2 Van" in shown.out
    assert "4 frames in kitti_infos_train.pkl" in shown.out
    assert shown.err.splitlines()[-1].startswith("kitti frames: 6/6, ")
    monkeypatch.setattr("sys.argv", ["prepare", "kitti", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"raydet3d: error: {tmp_path}/none: ")
    assert len(shown.err.splitlines()) == 1


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "cloud.bin"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new", durable=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    with (
        locked(root / ".prepare.lock", timeout_s=0, busy=""),
        pytest.raises(InputError, match="another process is preparing this folder"),
    ):
        prepare_kitti(root)


def remove(path: Path) -> None:
    for file in path.iterdir() if path.is_dir() else ():
        file.unlink()
    path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: remove(r / "ImageSets"), "ImageSets: has none of train.txt, val.txt"),
        (lambda r: remove(r / "training/calib"), "training/calib: no such folder, but ImageSets/train.txt needs it"),
        (
            lambda r: remove(r / "training/velodyne/000003.bin"),
            r"ImageSets/train.txt names frame 000003, but there is no .*training/velodyne/000003.bin",
        ),
        (
            lambda r: os.truncate(r / "training/velodyne/000001.bin", 1000),
            r"velodyne/000001.bin: 1000 bytes, not a multiple of the 16 bytes of a point .* ends at 992 bytes",
        ),
        (
            lambda r: (r / "training/label_2/000002.txt").write_text("Car 0 0 0 1 2 3 4 1 1 1 0 0 9\n"),
            "label_2/000002.txt line 1: 14 fields, the field 'rotation_y' is missing",
        ),
        (
            lambda r: (r / "ImageSets/val.txt").write_text("000004\n\nfive\n"),
            "val.txt line 3: 'five' is not the number",
        ),
        (lambda r: (r / "kitti_gt_database").write_text(""), "kitti_gt_database: cannot be written"),
    ],
)
def test_bad_raw_data_is_one_clear_line(tmp_path: Path, spoil, message: str) -> None:
    root = write_kitti(tmp_path / "kitti")
    spoil(root)
    with pytest.raises(InputError, match=message) as caught:
        prepare_kitti(root)
    assert "\n" not in str(caught.value)
    assert not (root / "kitti_infos_train.pkl").exists()


def test_empty_cloud_is_named_and_preparation_continues(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_kitti(tmp_path / "kitti")
    (root / "training/velodyne/000001.bin").write_bytes(b"")
    prepare_kitti(root)
    assert f"1 frames have no point in the camera's view: {root}/training/velodyne/000001.bin" in caplog.text
    counts = [one["num_lidar_pts"] for one in read_infos(root / "kitti_infos_train.pkl")["data_list"][1]["instances"]]
    assert counts == [0, 0, 0, 0, -1]


def test_unknown_types_in_label_files_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_kitti(tmp_path / "kitti")
    for name in ("000001", "000002"):
        labels = root / f"training/label_2/{name}.txt"
        line = labels.read_text().splitlines()[0].split(maxsplit=1)[1]
        labels.write_text(f"Pedestrain {line}\nZeppelin {line}\nCar {line}\n")
    for _ in range(2):  # also where nothing is left to do
        caplog.clear()
        prepare_kitti(root)
        said = "2 'Pedestrain' (did you mean 'Pedestrian'?), 2 'Zeppelin'; KITTI's types are Pedestrian, "
        assert [said in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [True]


def exit_code(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sys.argv", ["prepare", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    return ended.value.code


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("kind", ["none", "some", "jpg", "truncated", "unreadable"])
def test_images_are_not_needed_for_the_lidar(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    root, whole = write_kitti(tmp_path / "kitti"), write_kitti(tmp_path / "whole")
    for folder in (root, whole):  # with KITTI's own camera the image size is known without the image
        for path in (folder / "training/calib").iterdir():
            path.write_text(path.read_text().replace("7.000000000000e+02", "7.215377000000e+02"))
    images = sorted((root / "training/image_2").iterdir())
    if kind == "none":
        remove(root / "training/image_2")
    for path in [] if kind == "none" else images[:2]:
        data = path.read_bytes()
        path.unlink()
        if kind == "jpg":
            Image.new("RGB", (1242, 375)).save(path.with_suffix(".jpg"))
        elif kind != "some":
            path.write_bytes(data[: -100 if kind == "truncated" else 10])
    prepare_kitti(root)
    prepare_kitti(whole)
    made, wanted = outputs(root), outputs(whole)
    assert {name: made[name] for name in made if "kitti_infos" not in name} == {
        name: wanted[name] for name in wanted if "kitti_infos" not in name
    }
    camera = read_infos(root / "kitti_infos_train.pkl")["data_list"][0]["images"]["CAM2"]
    assert (camera["height"], camera["width"]) == (375, 1242)
    assert camera.get("img_path") == {"none": None, "some": None, "jpg": "000000.jpg"}.get(kind, "000000.png")
    said = {
        "none": "6 frames have no image",
        "some": "2 frames have no image",
        "truncated": "2 images are truncated or unreadable",
        "unreadable": "2 images are truncated or unreadable",
    }
    lines = warnings_of(caplog)
    assert [said[kind] in line for line in lines] == [True] if kind in said else not lines
    if kind in ("truncated", "unreadable"):
        assert str(images[0]) in lines[0]


def test_p2_is_the_only_camera_that_is_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_kitti(tmp_path / "kitti")
    path = root / "training/calib/000001.txt"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if line[:2] not in ("P0", "P1", "P3")))
    prepare_kitti(root)
    frames = read_infos(root / "kitti_infos_train.pkl")["data_list"]
    assert set(frames[1]["images"]) == {"CAM2", "R0_rect"}
    assert set(frames[0]["images"]) == {"CAM0", "CAM1", "CAM2", "CAM3", "R0_rect"}
    (line,) = warnings_of(caplog)
    assert "1 calib files lack" in line
    assert str(path) in line


def test_impossible_boxes_are_counted_and_kept_out_of_the_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_kitti(tmp_path / "kitti")
    for name, field, word in (("000000", 8, "0"), ("000001", 8, "nan"), ("000002", 11, "12345")):
        path = root / f"training/label_2/{name}.txt"
        lines = path.read_text().splitlines()
        words = lines[0].split()
        words[field] = word
        path.write_text("\n".join([" ".join(words), *lines[1:]]))
    for _ in range(2):  # also from the journal
        caplog.clear()
        prepare_kitti(root)
        (line,) = warnings_of(caplog)
        assert "3 objects have a 3D box that cannot be right" in line
        for part in ("1 with a size of zero or less", "1 with a number that is not finite", "000000.txt object 1"):
            assert part in line
    assert [entry["image_idx"] for entry in read_infos(root / "kitti_dbinfos_train.pkl")["Car"]] == [3]
    instances = read_infos(root / "kitti_infos_train.pkl")["data_list"][1]["instances"]
    assert [one["bbox_label_3d"] for one in instances] == [-1, 0, 1, 3, -1]
    assert np.isfinite([one["bbox_3d"] for one in instances]).all()


def test_a_frame_listed_twice_is_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, once = write_kitti(tmp_path / "kitti"), write_kitti(tmp_path / "once")
    (root / "ImageSets/train.txt").write_text("000000\n000001\n000000\n000002\n000003\n000001\n", encoding="utf-8-sig")
    prepare_kitti(root)
    (line,) = warnings_of(caplog)
    assert "train.txt: 2 frames are listed more than once" in line
    prepare_kitti(once)
    assert outputs(root) == outputs(once)


def test_a_frame_of_both_train_and_val_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_kitti(tmp_path / "kitti")
    (root / "ImageSets/val.txt").write_text("000003\n000004\n")
    prepare_kitti(root)
    (line,) = warnings_of(caplog)
    assert "1 frames are in train.txt and in val.txt (first: 000003)" in line


@pytest.mark.parametrize("text", [b"\xff\xfe0\x000\x00", b"\x80\x81"])
def test_a_list_that_is_no_text_is_one_line(tmp_path: Path, text: bytes) -> None:
    root = write_kitti(tmp_path / "kitti")
    (root / "ImageSets/val.txt").write_bytes(text)
    with pytest.raises(InputError, match=r"val\.txt: not a text file"):
        prepare_kitti(root)


@pytest.mark.parametrize(
    "blocked",
    [
        ".prepare.lock",
        ".kitti_infos_train.pkl.tmp",
        ".kitti_dbinfos_train.pkl.tmp",
        ".prepare.probe",
    ],
)
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    root = write_kitti(tmp_path / "kitti")
    (root / blocked / "in the way").mkdir(parents=True)  # stands for missing permissions, which root does not lack
    assert exit_code(["kitti", str(root), "--workers", "0"], monkeypatch) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert str(root) in errors[0]


def test_a_nul_character_in_the_path_and_an_unknown_data_set_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, word in ((["kitti", "a\0b"], "NUL"), (["kity", "data"], "'kitti'")):
        assert exit_code(arguments, monkeypatch) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert word in line
