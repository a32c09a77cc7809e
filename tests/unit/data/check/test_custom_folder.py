"""A data check of own recordings: in a stranger's axes, units and class names, raw and prepared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raydet3d.config import Config
from raydet3d.data.check.expectations import Expectations, read_expectations
from raydet3d.data.check.sources import splits_of_config, splits_of_root
from raydet3d.data.check.split_checks import CheckResult, check_splits
from raydet3d.data.prepare import prepare_custom
from raydet3d.errors import InputError
from tests.kit.strange_recorder import CONFIGS, write_strange_folder


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


def test_faults_of_labels_and_clouds_are_found(tmp_path: Path) -> None:
    root = write_strange_folder(tmp_path / "s", train=6, val=1, formats=("pcd",))
    edit_objects(root, "drive0/0000", **{"class": "PKV"})
    edit_objects(root, "drive0/0001", size=[160.0, 0.0, 150.0])
    path = edit_objects(root, "drive0/0002", yaw="north")
    cloud = root / "points" / "drive0" / "0003.pcd"
    cloud.write_bytes(cloud.read_bytes()[:-40])
    edit_objects(root, "drive1/0004", center=[1e7, 0.0, 0.0])
    result = check(root, tmp_path / "out")
    found = {one.kind: one for one in result.findings}
    assert found["unknown-label"].value == "PKV"
    assert found["bad-size"].index == 1
    assert {one.file for one in result.findings if one.kind == "bad-file"} == {str(path), str(cloud)}
    assert found["absurd-coordinate"].index == 4
    assert result.num_errors == 5


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
