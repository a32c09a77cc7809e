"""`cam_instances` against MMDetection3D's (stored by `kitti_cam_instances.py`)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from raydet3d.data.datasets.kitti_infos import make_cam_instances
from raydet3d.data.datasets.kitti_io import Calib, Labels
from tests.parity.kitti_cam_instances import P2, SIZE

STORED = json.loads(gzip.decompress((Path(__file__).parent / "kitti_cam_instances.json.gz").read_bytes()))


def test_cam_instances_equal_the_references() -> None:
    columns = {key: np.array(column) for key, column in STORED["labels"].items()}
    count = len(columns["name"])
    labels = Labels(
        names=tuple(columns["name"]),
        truncated=np.zeros(count),
        occluded=columns["occluded"],
        alpha=np.zeros(count),
        bbox=np.zeros((count, 4)),
        boxes=np.column_stack((columns["location"], columns["dimensions"], columns["rotation_y"])),
        score=np.zeros(count),
    )
    calib = Calib({2: np.array(P2)}, np.eye(4), np.eye(4))
    ours = make_cam_instances(labels, calib, SIZE)["CAM2"]
    theirs = STORED["cam_instances"]
    assert len(theirs) > 100
    assert len(ours) == len(theirs)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert set(mine) == set(wanted)
        for key, value in wanted.items():
            if isinstance(value, list):
                # The reference computes corners in float32: pixels of near boxes differ in the fourth digit.
                assert np.allclose(mine[key], value, rtol=1e-4, atol=2e-2), (key, mine[key], value)
            elif isinstance(value, float):
                assert abs(mine[key] - value) < 1e-4
            else:
                assert mine[key] == value
