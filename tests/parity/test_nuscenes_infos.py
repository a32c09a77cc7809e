"""nuScenes' info files against MMDetection3D's converter (stored by `nuscenes_infos.py`), field by field."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from raydet3d.data.prepare import prepare_nuscenes
from raydet3d.info_file import read_infos
from tests.kit.tiny_nuscenes import VERSION, write_nuscenes
from tests.parity.nuscenes_infos import FILE

STORED = json.loads(gzip.decompress(FILE.read_bytes()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scenes, prepared by ours."""
    made = write_nuscenes(tmp_path_factory.mktemp("infos") / "nuscenes")
    prepare_nuscenes(made, version=VERSION)
    return made


def differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Return where two values differ; numbers may differ by float32's rounding."""
    if isinstance(theirs, dict):
        if set(ours) != set(theirs):
            return [f"{place}: keys {sorted(set(ours) ^ set(theirs))}"]
        return [line for key in theirs for line in differences(ours[key], theirs[key], f"{place}.{key}")]
    if isinstance(theirs, list):
        if len(ours) != len(theirs):
            return [f"{place}: {len(ours)} instead of {len(theirs)}"]
        return [
            line
            for i, pair in enumerate(zip(ours, theirs, strict=True))
            for line in differences(*pair, f"{place}[{i}]")
        ]
    if isinstance(theirs, float):
        # Theirs goes through float32 in the middle of some chains.
        same = math.isclose(ours, theirs, rel_tol=2e-6, abs_tol=2e-5) or (math.isnan(ours) and math.isnan(theirs))
        return [] if same else [f"{place}: {ours!r} instead of {theirs!r}"]
    if place.endswith("lidar_path"):
        # Theirs is below the folder that the converter ran in, ours below the data set's.
        theirs = str(theirs).removeprefix("./data/nuscenes/")
    return [] if ours == theirs and type(ours) is type(theirs) else [f"{place}: {ours!r} instead of {theirs!r}"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_infos_equal_the_references(root: Path, split: str) -> None:
    ours, theirs = read_infos(root / f"nuscenes_infos_{split}.pkl"), STORED[split]
    assert ours["metainfo"] == theirs["metainfo"]
    assert len(ours["data_list"]) == len(theirs["data_list"])
    assert not differences(ours["data_list"], theirs["data_list"])[:10]


def test_the_references_infos_hold_what_is_compared() -> None:
    frames = STORED["train"]["data_list"]
    assert [len(frame.get("lidar_sweeps", ())) for frame in frames] == [0, 5, 10]
    assert sum(len(found) for frame in frames for found in frame["cam_instances"].values()) > 30
    assert any(one["attr_label"] == 8 for frame in frames for one in frame["cam_instances"]["CAM_FRONT_LEFT"])
