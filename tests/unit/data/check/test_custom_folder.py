"""A data check of own recordings: in a stranger's axes, units and class names, raw and prepared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from raydet3d.config import Config
from raydet3d.data.check.__main__ import main
from raydet3d.data.check.expectations import Expectations, read_expectations
from raydet3d.data.check.sources import splits_of_config, splits_of_root
from raydet3d.data.check.split_checks import CheckResult, check_splits
from raydet3d.data.prepare import prepare_custom
from raydet3d.errors import InputError
from tests.kit.strange_recorder import CONFIGS, to_stranger, town_frame, write_cloud, write_strange_folder


def check(root: Path, out: Path) -> CheckResult:
    return check_splits(splits_of_root(root), Expectations(), out)


def edit_objects(root: Path, name: str, **changes: object) -> Path:
    """Change keys of a frame's first object."""
    path = root / "labels" / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["objects"][0].update(changes)
    path.write_text(json.dumps(content))
    return path


def test_sound_recordings_have_no_finding_and_count_the_same_raw_and_prepared(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=3, val=1, formats=("pcd", "ply-ascii", "npy"))
    raw = check(root, tmp_path / "raw")
    assert raw.findings == []
    assert set(raw.splits["train"].classes) <= {"car", "pedestrian", "cyclist"}
    assert 3 < raw.splits["train"].classes["car"].histogram("length").mean < 6
    prepare_custom(root)
    shutil.rmtree(root / "points")
    prepared = check(root, tmp_path / "prepared")
    assert prepared.findings == []
    for name, own in raw.splits["train"].classes.items():
        other = prepared.splits["train"].classes[name]
        assert own.counts["objects"] == other.counts["objects"]
        assert own.histogram("distance").bins == other.histogram("distance").bins


def test_faults_of_ten_kinds_and_more_are_found_and_named(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=16, val=1, formats=("pcd",))
    names = (root / "splits" / "train.txt").read_text().split()
    labels = [root / "labels" / f"{name}.json" for name in names]
    clouds = [root / "points" / f"{name}.pcd" for name in names]
    edit_objects(root, names[0], **{"class": "PKV"})
    edit_objects(root, names[1], size=[160.0, 0.0, 150.0])
    edit_objects(root, names[2], yaw="north")
    clouds[3].write_bytes(clouds[3].read_bytes()[:-40])
    edit_objects(root, names[4], center=[1e7, 0.0, 0.0])
    edit_objects(root, names[5], size=[160.0, 42_000.0, 150.0])  # in millimetres
    edit_objects(root, names[7], center=[float("nan"), 0.0, 0.0])
    no_points = np.zeros((0, 4), np.float32)
    write_cloud(root / "points" / names[8], no_points, "pcd")
    shutil.copy(clouds[9], clouds[10])
    edit_objects(root, names[11], center=[0.0, 900.0, 2000.0])  # in the air
    content = json.loads(labels[12].read_text(encoding="utf-8"))
    labels[12].write_text(json.dumps({"objects": [content["objects"][0], *content["objects"]]}))
    shutil.copy(clouds[13], root / "points" / f"{(root / 'splits' / 'val.txt').read_text().strip()}.pcd")
    far, _ = town_frame(14)
    write_cloud(root / "points" / names[14], np.concatenate([to_stranger(far), [[9e6, 0, 0, 0]]]), "pcd")
    result = check(root, tmp_path / "out")
    found = {(one.kind, one.file, one.index) for one in result.findings}
    planted = {
        ("unknown-label", str(labels[0]), 0),
        ("bad-size", str(labels[1]), 1),
        ("bad-file", str(labels[2]), 2),
        ("bad-file", str(clouds[3]), 3),
        ("absurd-coordinate", str(labels[4]), 4),
        ("absurd-size", str(labels[5]), 5),
        ("nonfinite-box", str(labels[7]), 7),
        ("empty-cloud", str(clouds[8]), 8),
        ("duplicate-frame", str(clouds[10]), 10),
        ("box-without-points", str(labels[11]), 11),
        ("duplicate-box", str(labels[12]), 12),
        ("absurd-points", str(clouds[14]), 14),
    }
    assert planted <= found, planted - found
    assert {one.split for one in result.findings if one.kind == "shared-frame"} == {"val"}
    assert next(one.value for one in result.findings if one.kind == "unknown-label") == "PKV"
    assert result.num_errors == 8


def test_without_a_list_of_classes_those_of_the_labels_are_taken(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=2, val=1)
    content = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    del content["classes"]
    (root / "dataset.json").write_text(json.dumps(content))
    result = check(root, tmp_path / "out")
    assert result.findings == []
    assert "PKW" in result.splits["train"].classes


def test_a_split_that_names_a_missing_frame_is_refused(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=2, val=1)
    (root / "splits" / "train.txt").write_text("drive0/0000\nnone\n")
    with pytest.raises(InputError, match="none"):
        check(root, tmp_path / "out")


def test_the_shipped_config_of_own_recordings_is_checked(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=3, val=1)
    prepare_custom(root)
    cfg = Config.fromfile(CONFIGS["pointpillars"], options={"data_root": f"{root}/"})
    result = check_splits(splits_of_config(cfg), read_expectations(cfg), tmp_path / "out")
    assert result.num_errors == 0
    assert result.expected.anchors
    assert result.splits["train"].counts["points in range"] > 0


def test_sections_of_the_config_that_contradict_each_other_are_found(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=3, val=1)
    prepare_custom(root)
    found = tmp_path / "check.json"
    options = [f"data_root={root}/", "point_cloud_range=[0, -20, -3, 40.96, 20, 1]"]
    flags = ["--workers", "0", "--out", str(tmp_path / "out"), "--json", str(found)]
    assert main([CONFIGS["pointpillars"], *flags, "--cfg-options", *options]) == 2
    content = json.loads(found.read_text())
    assert content["totals"]["contradiction"] == content["errors"] == 1
    assert "along y" in next(one["sentence"] for one in content["findings"] if one["kind"] == "contradiction")
