"""`LoadPointsFromMultiSweeps`: time lag, frames, choice of sweeps, padding, close points."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.data import LoadPointsFromMultiSweeps
from raydet3d.data.seeded import SeededDataset
from raydet3d.errors import InputError
from tests.kit.close import assert_close

Cloud = np.ndarray[Any, np.dtype[np.float32]]


def pose(angle: float, x: float = 0.0, y: float = 0.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The transform from a sensor's frame to a common frame."""
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:2, 3] = x, y
    return matrix


def sweep(path: Path, points: list[list[float]], *, lag: float, sensor: Any = None) -> dict[str, Any]:
    np.array(points, np.float32).tofile(path)
    lidar2sensor = np.linalg.inv(np.eye(4) if sensor is None else sensor)
    points_of = {"lidar_path": str(path), "lidar2sensor": lidar2sensor.astype(np.float32).tolist()}
    return {"timestamp": 100.0 - lag, "lidar_points": points_of}


def sample(sweeps: list[dict[str, Any]] | None) -> dict[str, Any]:
    out: dict[str, Any] = {"points": np.array([[5, 5, 0, 9, 3], [0.5, -0.5, 0, 9, 3]], np.float32), "timestamp": 100.0}
    return out if sweeps is None else {**out, "lidar_sweeps": sweeps}


def test_sweeps_are_moved_into_the_keyframes_frame_and_carry_their_age(tmp_path: Path) -> None:
    # The sensor stood at (-4, 1), turned by 0.3, when it saw a wall point of the keyframe's frame at (6, 2).
    before = pose(0.3, -4, 1)
    seen = np.linalg.inv(before) @ [6, 2, 0.25, 1]
    step = LoadPointsFromMultiSweeps(sweeps_num=2, use_dim=5)
    made = step(sample([sweep(tmp_path / "a.bin", [[*seen[:3], 7, 8]], lag=0.05, sensor=before)]))["points"]
    assert made.dtype == np.float32
    assert_close(made, [[5, 5, 0, 9, 0], [0.5, -0.5, 0, 9, 0], [6, 2, 0.25, 7, 0.05]], atol=1e-5)
    assert LoadPointsFromMultiSweeps(sweeps_num=2)(sample([]))["points"].shape == (2, 4)


def test_the_shift_of_mmdetection3d_1_x_differs_where_the_car_turns(tmp_path: Path) -> None:
    def load(**changes: Any) -> Cloud:
        cloud: Cloud = LoadPointsFromMultiSweeps(use_dim=[0, 1, 2], **changes)(sample(sweeps))["points"][2:]
        return cloud

    sweeps = [sweep(tmp_path / "a.bin", [[1, 2, 3, 0, 0]], lag=0.05, sensor=pose(0.0, 3, 4))]
    assert_close(load(mmdet3d_shift=True), load(), atol=0)
    sweeps = [sweep(tmp_path / "a.bin", [[1, 2, 3, 0, 0]], lag=0.05, sensor=pose(np.pi / 2, 3, 4))]
    assert_close(load(), [[-2 + 3, 1 + 4, 3]], atol=1e-5)
    assert_close(load(mmdet3d_shift=True), [[-2 + 4, 1 - 3, 3]], atol=1e-5)


def test_training_draws_sweeps_and_testing_takes_the_nearest(tmp_path: Path) -> None:
    sweeps = [sweep(tmp_path / f"{i}.bin", [[i, 9, 0, 0, 0]], lag=0.05 * (i + 1)) for i in range(6)]
    near = LoadPointsFromMultiSweeps(sweeps_num=3, test_mode=True)(sample(sweeps))["points"][2:, 0]
    assert near.tolist() == [0, 1, 2]
    everything = LoadPointsFromMultiSweeps(sweeps_num=6)(sample(sweeps))["points"][2:, 0]
    assert everything.tolist() == [0, 1, 2, 3, 4, 5]
    np.random.seed(3)
    expected = np.random.choice(6, 3, replace=False)
    np.random.seed(3)
    drawn = LoadPointsFromMultiSweeps(sweeps_num=3)(sample(sweeps))["points"][2:, 0]
    assert drawn.tolist() == expected.tolist()


class _Samples:
    def __init__(self, sweeps: list[dict[str, Any]]) -> None:
        self.sweeps = sweeps
        self.step = LoadPointsFromMultiSweeps(sweeps_num=2)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[float]:
        made: list[float] = self.step(sample(self.sweeps))["points"][2:, 0].tolist()
        return made


def test_the_drawn_sweeps_depend_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    sweeps = [sweep(tmp_path / f"{i}.bin", [[i, 9, 0, 0, 0]], lag=0.05 * (i + 1)) for i in range(10)]
    dataset = SeededDataset(_Samples(sweeps), seed=5)
    first = [dataset[(epoch, index)] for epoch in range(3) for index in range(4)]
    np.random.seed(99)
    assert [dataset[(epoch, index)] for epoch in range(3) for index in range(4)] == first
    assert len({tuple(drawn) for drawn in first}) > 6


def test_a_sample_without_sweeps_repeats_its_keyframe_if_asked(tmp_path: Path) -> None:
    assert len(LoadPointsFromMultiSweeps(sweeps_num=3)(sample(None))["points"]) == 2
    padded = LoadPointsFromMultiSweeps(sweeps_num=3, pad_empty_sweeps=True)(sample(None))["points"]
    assert padded.tolist() == [[5, 5, 0, 0], [0.5, -0.5, 0, 0]] * 4
    # The keyframe itself keeps its close points.
    far = LoadPointsFromMultiSweeps(sweeps_num=2, pad_empty_sweeps=True, remove_close=True)(sample(None))["points"]
    assert far[:, 0].tolist() == [5, 0.5, 5, 5]


def test_points_on_the_car_are_removed_in_the_sensors_frame(tmp_path: Path) -> None:
    there = pose(0.0, 10.0, 0.0)
    points = [[0.9, -0.9, 0, 0, 0], [0.9, 1.1, 0, 0, 0], [-1.0, 0.0, 0, 0, 0]]
    sweeps = [sweep(tmp_path / "a.bin", points, lag=0.1, sensor=there)]
    made = LoadPointsFromMultiSweeps(remove_close=True)(sample(sweeps))["points"][2:]
    assert_close(made[:, :2], [[10.9, 1.1], [9.0, 0.0]], atol=1e-5)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.bin"):
        LoadPointsFromMultiSweeps()(sample([{**sweep(tmp_path / "a.bin", [], lag=0.1)} | {
            "lidar_points": {"lidar_path": str(tmp_path / "none.bin"), "lidar2sensor": np.eye(4).tolist()}
        }]))  # fmt: skip
    (tmp_path / "b.bin").write_bytes(bytes(21))
    bad = sweep(tmp_path / "c.bin", [], lag=0.1)
    bad["lidar_points"]["lidar_path"] = str(tmp_path / "b.bin")
    with pytest.raises(InputError, match="21 bytes"):
        LoadPointsFromMultiSweeps()(sample([bad]))
    with pytest.raises(InputError, match="load_dim=6, but the keyframe's points have 5"):
        LoadPointsFromMultiSweeps(load_dim=6)(sample([]))
    for arguments in ({"load_dim": 4}, {"sweeps_num": -1}, {"use_dim": [0, 5]}, {"use_dim": []}):
        with pytest.raises(InputError, match="LoadPointsFromMultiSweeps"):
            LoadPointsFromMultiSweeps(**arguments)
