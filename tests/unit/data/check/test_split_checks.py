"""A data check finds planted faults of every kind, and nothing in sound data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from raydet3d.config import ConfigDict
from raydet3d.data.check.__main__ import choose_worst, main
from raydet3d.data.check.expectations import Expectations, read_expectations
from raydet3d.data.check.findings import KINDS, Finding
from raydet3d.data.check.sources import splits_of_config, splits_of_root
from raydet3d.data.check.split_checks import CheckResult, check_splits
from raydet3d.data.prepare import prepare_kitti
from raydet3d.errors import InputError
from raydet3d.files import write_pickle
from raydet3d.info_file import read_infos
from tests.kit.tiny_kitti import CLASSES, dataset_cfg, label, train_pipeline, write_kitti

RANGE = [0, -40, -3, 60, 40, 1]


def check(root: Path, out: Path, expected: Expectations | None = None, workers: int = 0) -> CheckResult:
    return check_splits(splits_of_root(root), expected or Expectations(), out, workers=workers)


def found(result: CheckResult, kind: str) -> Finding:
    """The only finding of a kind."""
    (one,) = [finding for finding in result.findings if finding.kind == kind]
    return one


def cloud_file(root: Path, number: int) -> Path:
    return root / "training" / "velodyne" / f"{number:06d}.bin"


def label_file(root: Path, number: int) -> Path:
    return root / "training" / "label_2" / f"{number:06d}.txt"


def edit_cloud(root: Path, number: int, row: int, column: int, value: float) -> None:
    points = np.fromfile(cloud_file(root, number), np.float32).reshape(-1, 4)
    points[row, column] = value
    points.tofile(cloud_file(root, number))


def edit_label(root: Path, number: int, field: int, value: str) -> None:
    """Set a field of a frame's first object, a car."""
    first, *rest = label_file(root, number).read_text().splitlines()
    words = first.split()
    words[field] = value
    label_file(root, number).write_text("\n".join([" ".join(words), *rest]) + "\n")


def add_label(root: Path, number: int, line: str) -> None:
    label_file(root, number).write_text(line + "\n" + label_file(root, number).read_text())


def test_sound_data_have_no_finding(tmp_path: Path) -> None:
    result = check(write_kitti(tmp_path / "kitti", train=6, val=3, test=0), tmp_path / "out")
    assert result.findings == []
    assert (result.num_errors, result.num_warnings) == (0, 0)
    train = result.splits["train"]
    assert train.counts["frames"] == train.counts["frames with objects"] == 6
    assert {name: one.counts["objects"] for name, one in train.classes.items()} == {
        "Car": 6,
        "Pedestrian": 6,
        "Cyclist": 6,
        "Van": 3,
    }
    assert train.classes["Car"].histogram("points of a box").bins == {40: 6}
    assert train.classes["Pedestrian"].histogram("points of a box").bins == {12: 6}
    assert train.classes["Car"].histogram("length").mean == pytest.approx(4.0)
    assert result.splits["val"].classes["Car"].counts["objects"] == 3


def test_planted_faults_of_every_kind_are_found_and_named(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti", train=20, val=3)
    cloud_file(root, 0).unlink()
    cloud_file(root, 1).write_bytes(cloud_file(root, 1).read_bytes()[:-5])
    cloud_file(root, 2).write_bytes(b"")
    edit_cloud(root, 3, row=7, column=1, value=np.nan)
    five = np.random.default_rng(0).normal([0, 0, -1, 0.5, 30], [20, 15, 0.5, 0.1, 9], (400, 5)).astype(np.float32)
    five.tofile(cloud_file(root, 4))
    label_file(root, 5).write_text("Car 0.0 zero\n")
    edit_label(root, 6, 0, "Carr")
    edit_label(root, 7, 9, "0.0")
    edit_label(root, 8, 11, "nan")
    edit_label(root, 9, 13, "4000")
    edit_label(root, 10, 10, "400")
    edit_label(root, 11, 14, "90")
    shutil.copy(cloud_file(root, 12), cloud_file(root, 13))
    shutil.copy(cloud_file(root, 14), cloud_file(root, 20))  # the first frame of val
    add_label(root, 15, label("Car", 30, 30))
    edit_cloud(root, 16, row=2, column=0, value=1e6)
    add_label(root, 17, label_file(root, 17).read_text().splitlines()[0])
    (root / "training" / "calib" / "000018.txt").unlink()
    result = check(root, tmp_path / "out")

    assert found(result, "bad-size").value == [4.0, 1.5, 0.0]
    assert found(result, "bad-size").file == str(label_file(root, 7))
    assert (found(result, "bad-size").index, found(result, "bad-size").object) == (7, 0)
    assert found(result, "unknown-label").value == "Carr"
    assert "did you mean 'Car'" in found(result, "unknown-label").sentence
    assert found(result, "nonfinite-box").index == 8
    assert found(result, "absurd-coordinate").index == 9
    assert found(result, "absurd-size").index == 10
    assert found(result, "absurd-yaw").value == 90.0
    assert found(result, "empty-cloud").file == str(cloud_file(root, 2))
    assert found(result, "nonfinite-points").index == 3
    assert "point 7" in found(result, "nonfinite-points").sentence
    assert (found(result, "wrong-columns").index, found(result, "wrong-columns").value) == (4, 5)
    assert {(one.file, one.index) for one in result.findings if one.kind == "bad-file"} == {
        (str(cloud_file(root, 1)), 1),
        (str(label_file(root, 5)), 5),
    }
    assert {(one.file, one.index) for one in result.findings if one.kind == "missing-file"} == {
        (str(cloud_file(root, 0)), 0),
        (str(root / "training" / "calib" / "000018.txt"), 18),
    }
    assert (found(result, "duplicate-frame").index, found(result, "duplicate-frame").value) == (13, 12)
    shared = found(result, "shared-frame")
    assert (shared.split, shared.index, shared.value) == ("val", 0, 14)
    assert found(result, "duplicate-box").index == 17
    assert found(result, "absurd-points").value == 1e6
    empty = {(one.index, one.object) for one in result.findings if one.kind == "box-without-points"}
    assert (15, 0) in empty
    order = [list(KINDS).index(finding.kind) for finding in result.findings]
    assert order == sorted(order)


def test_a_file_with_two_faults_is_named_for_both(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti", train=2, val=1)
    cloud_file(root, 0).unlink()
    edit_label(root, 0, 9, "-1")
    assert {one.kind for one in check(root, tmp_path / "out").findings} == {"missing-file", "bad-size"}


def test_workers_find_the_same(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti", train=70, val=2, num_points=100)
    edit_label(root, 65, 0, "Carr")
    alone, shared = check(root, tmp_path / "a"), check(root, tmp_path / "b", workers=2)
    assert alone.findings == shared.findings
    assert {name: one.to_json() for name, one in alone.splits.items()} == {
        name: one.to_json() for name, one in shared.splits.items()
    }


def test_unchanged_frames_are_not_read_again(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti", train=40, val=2, num_points=100)
    first = check(root, tmp_path / "out")
    journal = tmp_path / "out" / ".check.journal"
    lines = journal.read_bytes().count(b"\n")
    again = check(root, tmp_path / "out")
    assert journal.read_bytes().count(b"\n") == lines
    assert again.splits["train"].to_json() == first.splits["train"].to_json()
    edit_label(root, 3, 0, "Carr")
    assert found(check(root, tmp_path / "out"), "unknown-label").index == 3
    assert journal.read_bytes().count(b"\n") == lines + 1


def kitti_config(root: Path, **model: object) -> ConfigDict:
    train = dataset_cfg(root, pipeline=train_pipeline(root))
    val = dataset_cfg(root, split="val", pipeline=[], test_mode=True)
    loaders = {"train_dataloader": {"dataset": {"type": "RepeatDataset", "times": 2, "dataset": train}}}
    loaders |= {mode: {"dataset": val} for mode in ("val_dataloader", "test_dataloader")}
    return ConfigDict(
        **loaders,
        model={
            "data_preprocessor": {
                "voxel_layer": {
                    "point_cloud_range": RANGE,
                    "voxel_size": [0.16, 0.16, 4],
                    "max_num_points": 32,
                    "max_voxels": [16000, 40000],
                }
            },
            "bbox_head": {
                "anchor_generator": {
                    "type": "AlignedAnchor3DRangeGenerator",
                    "ranges": [[0, -40, bottom, 60, 40, bottom] for bottom in (-1.7, -1.7, 3.0)],
                    "sizes": [[0.8, 0.6, 1.73], [17.6, 6.0, 1.73], [3.9, 1.6, 1.56]],
                }
            },
            "train_cfg": {"assigner": [{"pos_iou_thr": 0.5}, {"pos_iou_thr": 0.5}, {"pos_iou_thr": 0.6}]},
            **model,
        },
    )


def check_config(cfg: ConfigDict, out: Path) -> CheckResult:
    return check_splits(splits_of_config(cfg), read_expectations(cfg), out)


def test_what_does_not_fit_the_config_is_found(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    add_label(root, 1, label("Car", 70, 0))
    prepare_kitti(root)
    cfg = kitti_config(root)
    result = check_config(cfg, tmp_path / "out")
    assert list(result.splits) == ["train", "val"]
    assert result.expected.classes == tuple(CLASSES)
    assert found(result, "box-outside-range").index == 1
    assert found(result, "anchor-size").sentence.count("Cyclist") == 1
    assert found(result, "anchor-height").sentence.count("Car") == 1
    assert result.num_errors == 0
    # Vans are not trained: they are counted, and no class to complain about.
    assert result.splits["train"].classes["Van"].counts["objects"] == 2


def test_a_range_beside_the_data_breaks_training(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    layer = {"point_cloud_range": [-90, -40, -3, -50, 40, 1], "voxel_size": [0.2, 0.2, 4], "max_voxels": 100}
    result = check_config(kitti_config(root, data_preprocessor={"voxel_layer": layer}), tmp_path / "out")
    assert result.totals["no-points-in-range"] == 6
    assert result.totals["class-out-of-range"] == 3


def test_voxel_limits_that_drop_points_are_found(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    layer = {"point_cloud_range": RANGE, "voxel_size": [8, 8, 4], "max_num_points": 2, "max_voxels": 3}
    result = check_config(kitti_config(root, data_preprocessor={"voxel_layer": layer}), tmp_path / "out")
    assert result.totals["voxel-limit"] == 2


def test_faults_of_an_info_file_are_found(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    path = root / "kitti_infos_train.pkl"
    content = read_infos(path)
    frames = content["data_list"]
    frames[0]["instances"][0]["bbox_label_3d"] = 77
    frames[1]["instances"][0]["bbox_3d"][3] = -4.0
    del frames[2]["lidar_points"]
    frames[3]["lidar_points"]["lidar_path"] = "none.bin"
    write_pickle(path, content)
    cfg = kitti_config(root)
    cfg.train_dataloader.dataset.dataset.metainfo.classes = ["Pedestrian", "Cyclist", "Bus"]
    result = check_config(cfg, tmp_path / "out")
    assert (found(result, "unknown-label").value, found(result, "unknown-label").index) == (77, 0)
    assert found(result, "bad-size").index == 1
    assert found(result, "bad-entry").index == 2
    assert found(result, "missing-file").index == 3
    assert {one.value for one in result.findings if one.kind == "unknown-class"} == {"Bus"}
    assert found(result, "class-without-objects").value == "Bus"


def test_a_prepared_folder_without_raw_files_is_checked_by_its_info_files(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    shutil.rmtree(root / "training" / "velodyne")
    splits = splits_of_root(root)
    assert [(one.name, len(one.frames), one.is_trained) for one in splits] == [("train", 4, True), ("val", 2, False)]
    assert check(root, tmp_path / "out").findings == []


def test_a_folder_of_no_known_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kitti"):
        splits_of_root(tmp_path)


def test_the_command_writes_page_and_json_and_exits_by_the_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_kitti(tmp_path / "kitti", num_points=2000)
    out, path = tmp_path / "out", tmp_path / "found" / "check.json"
    arguments = [str(root), "--workers", "0", "--out", str(out), "--json", str(path)]
    assert main(arguments) == 0
    edit_label(root, 1, 9, "nan")
    add_label(root, 2, label("Car", 30, 30))
    assert main(arguments) == 2
    content = json.loads(path.read_text())
    assert content["errors"] == 1
    assert content["totals"] == {"nonfinite-box": 1, "box-without-points": 1}
    assert content["findings"][0]["severity"] == "error"
    assert "nan" in content["findings"][0]["value"]
    assert content["suggestions"]["anchors"]["Car"]["size"] == [4.0, 1.6, 1.5]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "light-dark(" in page
    assert "https:" not in page
    assert "nonfinite-box" in capsys.readouterr().out


def test_names_in_the_data_cannot_add_markup_to_the_page(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    edit_label(root, 1, 0, "<script>")
    assert main([str(root), "--workers", "0", "--out", str(tmp_path / "out")]) == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_pictures_show_every_kind_before_a_second_of_one() -> None:
    def one(kind: str, index: int) -> Finding:
        return Finding(kind, "file", None, "", "train", index)

    many = [one("bad-size", index) for index in (3, 3, 4, 5)] + [one("duplicate-box", 3), one("anchor-size", 9)]
    drawn = [[(finding.kind, finding.index) for finding in own] for own in choose_worst(many, 2)]
    assert drawn == [
        [("bad-size", 3), ("bad-size", 3), ("duplicate-box", 3)],
        [("anchor-size", 9)],
        [("bad-size", 4)],
    ]


@pytest.mark.parametrize("flags", [["--workers", "-1"], ["--pictures", "-1"], ["--cfg-options", "a=1"]])
def test_wrong_flags_are_refused(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(InputError, match=flags[0]):
        main([str(tmp_path), *flags])
