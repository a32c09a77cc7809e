"""Checks of single frames: columns of a cloud, anchors, suggestions."""

from __future__ import annotations

import numpy as np
import pytest

from raydet3d.config import Config
from raydet3d.data.check.expectations import Expectations, read_expectations
from raydet3d.data.check.frame_checks import guess_columns
from raydet3d.data.check.suggestions import suggest
from raydet3d.data.check.tally import Tally


def cloud(columns: int, points: int = 600) -> np.ndarray:
    rng = np.random.default_rng(columns)
    spread = np.array([20, 15, 0.8, 0.2, 10, 0.05, 3, 1e-3])[:columns]
    return rng.normal(np.arange(columns), spread, (points, columns)).astype(np.float32)


@pytest.mark.parametrize("right", [3, 4, 5, 6, 8])
@pytest.mark.parametrize("read", [3, 4, 5, 6])
def test_a_wrong_number_of_columns_is_recognized(right: int, read: int) -> None:
    guess = guess_columns(cloud(right).reshape(-1, read))
    # Read with a divisor or a multiple, the columns are still told apart.
    assert guess == (right if right % read and read % right else None)


def test_columns_of_a_few_points_are_not_guessed() -> None:
    assert guess_columns(cloud(5, points=40).reshape(-1, 4)) is None


def test_expectations_of_shipped_configs() -> None:
    kitti = read_expectations(Config.fromfile("configs/second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py"))
    assert kitti.classes == ("Pedestrian", "Cyclist", "Car")
    assert kitti.point_cloud_range == (0, -40, -3, 70.4, 40, 1)
    assert (kitti.max_num_points, kitti.max_voxels) == (5, 16000)
    assert kitti.has_own_anchors
    assert [anchor.size for anchor in kitti.anchors["Car"]] == [(3.9, 1.6, 1.56)]
    assert kitti.anchors["Car"][0].min_iou == 0.6
    nus = read_expectations(Config.fromfile("configs/pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py"))
    assert nus.num_sweeps == 10
    assert not nus.has_own_anchors
    assert len(nus.anchors["bus"]) > 1
    center = read_expectations(
        Config.fromfile("configs/centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py")
    )
    assert center.anchors == {}
    assert len(center.classes) == 10


def objects(x: np.ndarray, y: np.ndarray) -> Tally:
    tally = Tally()
    own = tally.of_class("Car")
    own.counts["objects"] = len(x)
    ones = np.ones(len(x))
    for name, values in {"x": x, "y": y, "length": 4 * ones, "width": 1.6 * ones, "height": 1.5 * ones}.items():
        own.measure(name, values)
    own.measure("bottom", -1.7 * ones)
    own.measure("top", -0.2 * ones)
    tally.measure("voxels of a frame", [3000, 5200])
    tally.measure("points of a voxel", [1] * 90 + [7] * 10)
    return tally


def test_suggested_range_begins_at_a_sensor_in_front_of_the_objects_and_is_symmetric_around_one_among_them() -> None:
    rng = np.random.default_rng(0)
    found = suggest(objects(rng.uniform(4, 70, 2000), rng.uniform(-20, 39, 2000)), Expectations())
    x0, y0, z0, x1, y1, z1 = found.point_cloud_range
    assert x0 == 0
    assert y0 == -y1
    assert 69 < x1 < 74
    assert 38 < y1 < 43
    assert (z0, z1) == (-2.5, 0.5)
    assert found.voxel_size == (0.4, 0.4, 3.0)
    for low, high in ((x0, x1), (y0, y1)):
        assert round((high - low) / 0.4) % 8 == 0
    assert found.anchors["Car"].size == (4.0, 1.6, 1.5)
    assert found.anchors["Car"].bottom == -1.7
    assert found.max_voxels == 6000
    assert found.max_num_points == 7
    namespace: dict[str, object] = {}
    exec(found.as_config(), namespace)
    assert namespace["point_cloud_range"] == [x0, y0, z0, x1, y1, z1]


def test_nothing_is_suggested_without_data() -> None:
    assert suggest(Tally(), Expectations()).as_config() == ""


def test_suggestions_for_own_recordings_are_variables_of_their_configs_with_the_classes_in_order() -> None:
    rng = np.random.default_rng(0)
    tally = objects(rng.uniform(4, 70, 200), rng.uniform(-20, 39, 200))
    tally.classes["Bus"] = tally.classes["Car"]
    namespace: dict[str, dict[str, list[object]]] = {}
    found = suggest(tally, Expectations(classes=("Tram",)), order=["Car", "Tram", "Bus"], is_custom=True)
    exec(found.as_config(), namespace)
    variables = namespace["_base_variables_"]
    assert variables["class_names"] == ["Car", "Bus"]
    assert variables["anchor_bottoms"] == [-1.7, -1.7]
    assert set(variables) == {"class_names", "point_cloud_range", "voxel_size", "anchor_sizes", "anchor_bottoms"}


def test_suggested_pillars_are_as_high_as_the_suggested_range() -> None:
    rng = np.random.default_rng(0)
    tally = objects(rng.uniform(4, 70, 200), rng.uniform(-20, 39, 200))
    pillars = Expectations(point_cloud_range=(0, -20, -3, 40, 20, 1), voxel_size=(0.32, 0.32, 4))
    assert suggest(tally, pillars).voxel_size == (0.32, 0.32, 3.0)
    voxels = Expectations(point_cloud_range=(0, -20, -3, 40, 20, 1), voxel_size=(0.05, 0.05, 0.1))
    assert suggest(tally, voxels).voxel_size == (0.05, 0.05, 0.1)
