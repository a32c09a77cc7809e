"""Hard voxelisation, on the CPU's and on the GPU's path, against a loop that takes one point after the other."""

import numpy as np
import pytest
import torch

from raydet3d.ops import grid_size, voxelize, voxelize_hard
from tests.kit.close import assert_close
from tests.kit.shared import KITTI, needs_shared

Grouped = tuple[np.ndarray, np.ndarray, np.ndarray]


def one_after_the_other(
    points: np.ndarray, voxel_size: list[float], span: list[float], max_num_points: int, max_voxels: int
) -> Grouped:
    real = points.dtype.type
    low, size = np.array(span[:3], real), np.array(voxel_size, real)
    grid = np.round((np.array(span[3:], real) - low) / size).astype(int)
    number: dict[tuple[int, ...], int] = {}
    voxels: list[list[np.ndarray]] = []
    for point in points:
        if not np.isfinite(point[:3]).all():
            continue
        cell = np.floor((point[:3] - low) / size).astype(int)
        if (cell < 0).any() or (cell >= grid).any():
            continue
        key = (int(cell[2]), int(cell[1]), int(cell[0]))
        if key not in number:
            if len(voxels) == max_voxels:
                continue
            number[key] = len(voxels)
            voxels.append([])
        if len(voxels[number[key]]) < max_num_points:
            voxels[number[key]].append(point)
    table = np.zeros((len(voxels), max_num_points, points.shape[1]), points.dtype)
    for v, members in enumerate(voxels):
        table[v, : len(members)] = members
    counts = np.array([len(members) for members in voxels], np.int32)
    return table, np.array(list(number), np.int32).reshape(-1, 3), counts


def ways(points: np.ndarray, voxel_size: list[float], span: list[float], max_num_points: int, max_voxels: int):
    """The path for the CPU and, run on the CPU too, the one for GPUs."""
    tensor = torch.from_numpy(points)
    limits = {"max_num_points": max_num_points, "max_voxels": max_voxels}
    yield "cpu", voxelize_hard(tensor, voxel_size=voxel_size, point_cloud_range=span, **limits)
    size = grid_size(voxel_size, span)
    yield "gpu", voxelize._hard_torch(tensor, voxel_size, span, size, max_num_points, max_voxels)


def check(points: np.ndarray, *setting) -> Grouped:
    expected = one_after_the_other(points, *setting)
    for name, found in ways(points, *setting):
        for part, got, want in zip(("voxels", "coords", "counts"), found, expected, strict=True):
            assert got.numpy().dtype == want.dtype, (name, part)
            assert_close(got, want, name=f"{part} of the {name} path")
    return expected


SETTINGS = {
    "plenty of room": ([0.5, 0.5, 4], [0, -5, -3, 10, 5, 1], 64, 5000),
    "few points a voxel": ([0.5, 0.5, 4], [0, -5, -3, 10, 5, 1], 5, 5000),
    "one point a voxel": ([1.0, 1.0, 1.0], [0, -5, -3, 10, 5, 1], 1, 5000),
    "too many voxels": ([0.5, 0.25, 0.5], [0, -5, -3, 10, 5, 1], 3, 150),
    "one voxel": ([0.5, 0.25, 0.5], [0, -5, -3, 10, 5, 1], 3, 1),
    "a size that floats cannot hold": ([0.16, 0.16, 4], [0, -4.96, -3, 9.92, 4.96, 1], 32, 400),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_cloud(name: str, dtype: type) -> None:
    rng = np.random.default_rng(21)
    points = rng.normal([4, 0, -1, 0], [3, 3, 1, 1], (2500, 4)).astype(dtype)
    table, _, counts = check(points, *SETTINGS[name])
    if name == "too many voxels":
        assert len(table) == 150
    if name == "few points a voxel":
        assert counts.max() == 5
        assert counts.min() < 5


@pytest.mark.parametrize("columns", [3, 4, 5, 6])
def test_any_number_of_columns(columns: int) -> None:
    rng = np.random.default_rng(22)
    check(rng.uniform(-1, 6, (400, columns)).astype(np.float32), [1, 1, 1], [0, 0, 0, 5, 5, 5], 3, 60)


def test_points_on_every_border() -> None:
    """All multiples of half a voxel, and their neighbours in float32, in and around the range."""
    steps = np.arange(-2, 14, dtype=np.float32) * np.float32(0.08)
    line = np.concatenate((steps, np.nextafter(steps, np.float32(-9)), np.nextafter(steps, np.float32(9))))
    x, y = np.meshgrid(line, line)
    points = np.stack((x.ravel(), y.ravel(), np.zeros(x.size), np.arange(x.size)), axis=1).astype(np.float32)
    check(points, [0.16, 0.16, 4], [0, 0, -3, 0.8, 0.8, 1], 9, 100)


@pytest.mark.parametrize("points", [np.zeros((0, 4), np.float32), np.full((7, 4), 99, np.float32)])
def test_nothing_in_range(points: np.ndarray) -> None:
    check(points, [1, 1, 1], [0, 0, 0, 5, 5, 5], 3, 60)


def test_not_finite() -> None:
    points = np.random.default_rng(23).uniform(0, 5, (60, 4)).astype(np.float32)
    points[::7, 0], points[3::7, 1], points[5::7, 2] = np.nan, np.inf, -np.inf
    check(points, [1, 1, 1], [0, 0, 0, 5, 5, 5], 3, 60)


def test_a_slice_of_a_larger_array() -> None:
    wide = torch.from_numpy(np.random.default_rng(24).uniform(0, 5, (300, 8)).astype(np.float32))
    settings = {"voxel_size": [1, 1, 1], "point_cloud_range": [0, 0, 0, 5, 5, 5], "max_num_points": 3, "max_voxels": 50}
    for got, want in zip(
        voxelize_hard(wide[::2, 1:6], **settings), voxelize_hard(wide[::2, 1:6].contiguous(), **settings), strict=True
    ):
        assert torch.equal(got, want)


@needs_shared
@pytest.mark.parametrize(
    "setting",
    [
        ([0.16, 0.16, 4], [0, -39.68, -3, 69.12, 39.68, 1], 32, 16000),
        ([0.16, 0.16, 4], [0, -39.68, -3, 69.12, 39.68, 1], 32, 2000),
        ([0.05, 0.05, 0.1], [0, -40, -3, 70.4, 40, 1], 5, 16000),
    ],
    ids=["pillars", "pillars, too many", "voxels"],
)
def test_real_sweep(setting) -> None:
    points = np.fromfile(KITTI / "training/velodyne/000002.bin", np.float32).reshape(-1, 4)[::4].copy()
    check(points, *setting)
