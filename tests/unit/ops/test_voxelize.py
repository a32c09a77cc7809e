import numpy as np
import pytest
import torch

from raydet3d.ops import grid_size, voxelize_dynamic, voxelize_hard
from tests.kit.close import assert_close

GRID = {"voxel_size": [1.0, 1.0, 2.0], "point_cloud_range": [0, 0, -1, 4, 3, 1]}


def cloud(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("voxel_size", "span", "expected"),
    [
        ([0.16, 0.16, 4], [0, -39.68, -3, 69.12, 39.68, 1], (432, 496, 1)),
        ([0.05, 0.05, 0.1], [0, -40, -3, 70.4, 40, 1], (1408, 1600, 40)),
        ([0.2, 0.2, 8], [-51.2, -51.2, -5, 51.2, 51.2, 3], (512, 512, 1)),
        ([0.075, 0.075, 0.2], [-54, -54, -5, 54, 54, 3], (1440, 1440, 40)),
    ],
)
def test_published_grids(voxel_size: list[float], span: list[float], expected: tuple[int, int, int]) -> None:
    assert grid_size(voxel_size, span) == expected


def test_a_grid_without_voxels_is_refused() -> None:
    with pytest.raises(ValueError, match="no voxel"):
        grid_size([1, 1, 1], [0, 0, 0, 4, 4, 0.1])


class TestHard:
    def test_first_come_first_served(self) -> None:
        points = cloud(
            (2.5, 1.5, 0, 1),  # voxel 0 at x 2, y 1
            (0.5, 0.5, 0, 2),  # voxel 1
            (2.1, 1.1, 0, 3),
            (2.2, 1.2, 0, 4),  # a third point for voxel 0, one too many
            (3.5, 2.5, 0, 5),  # would be a third voxel
            (0.6, 0.6, 0, 6),  # enters voxel 1 although no new voxel may begin
            (9.0, 0.0, 0, 7),  # out of range
        )
        voxels, coords, counts = voxelize_hard(points, **GRID, max_num_points=2, max_voxels=2)
        assert coords.tolist() == [[0, 1, 2], [0, 0, 0]]
        assert counts.tolist() == [2, 2]
        assert voxels[:, :, 3].tolist() == [[1, 3], [2, 6]]
        assert (voxels.dtype, coords.dtype, counts.dtype) == (torch.float32, torch.int32, torch.int32)

    def test_room_that_is_left_is_zero(self) -> None:
        voxels, _, counts = voxelize_hard(cloud((1, 1, 0, 9)), **GRID, max_num_points=3, max_voxels=5)
        assert voxels.tolist() == [[[1, 1, 0, 9], [0, 0, 0, 0], [0, 0, 0, 0]]]
        assert counts.tolist() == [1]

    def test_borders(self) -> None:
        below = float(np.nextafter(np.float32(4), np.float32(0)))
        tiny = float(np.nextafter(np.float32(0), np.float32(-1)))
        points = cloud(
            (0, 0, -1, 1),  # the lower corner is in range
            (4, 0, 0, 2),  # the upper border is not
            (below, 0, 0, 3),
            (tiny, 0, 0, 4),  # just below the lower border: not voxel 0
            (-0.5, 0, 0, 5),
            (0, 3, 0, 6),
            (0, 0, 1, 7),
            (1, 1, 0, 8),  # a border between voxels belongs to the upper one
            (float("nan"), 0, 0, 9),
            (0, float("inf"), 0, 10),
        )
        voxels, coords, _ = voxelize_hard(points, **GRID, max_num_points=1, max_voxels=9)
        assert voxels[:, 0, 3].tolist() == [1, 3, 8]
        assert coords.tolist() == [[0, 0, 0], [0, 0, 3], [0, 1, 1]]

    @pytest.mark.parametrize("points", [cloud(), cloud((9, 9, 9, 1))], ids=["empty", "all out of range"])
    def test_nothing_to_group(self, points: torch.Tensor) -> None:
        voxels, coords, counts = voxelize_hard(points, **GRID, max_num_points=3, max_voxels=5)
        assert voxels.shape == (0, 3, 4)
        assert coords.shape == (0, 3)
        assert counts.shape == (0,)

    def test_the_grid_is_the_same_however_it_is_given(self) -> None:
        """Sizes as float64 arrays must not lift the arithmetic out of float32, where 0.16 is another number."""
        x = torch.arange(0, 400, dtype=torch.float32) * 0.16
        points = torch.stack((x, x * 0, x * 0, x), dim=1)
        limits = {"max_num_points": 4, "max_voxels": 400}
        size, span = [0.16, 0.16, 4.0], [0, -1.6, -3, 64, 1.6, 1]
        expected = voxelize_hard(points, voxel_size=size, point_cloud_range=span, **limits)
        assert len(expected[0]) < 400, "in float32 some multiples of 0.16 fall into the voxel below"
        arrays = voxelize_hard(points, voxel_size=np.array(size), point_cloud_range=np.array(span), **limits)
        for got, want in zip(arrays, expected, strict=True):
            assert torch.equal(got, want)

    def test_input_is_left_alone(self) -> None:
        points = torch.rand(50, 5, generator=torch.Generator().manual_seed(0))
        before = points.clone()
        voxels, _, _ = voxelize_hard(points, **GRID, max_num_points=3, max_voxels=5)
        voxels.zero_()
        assert torch.equal(points, before)


class TestDynamic:
    def test_each_point_gets_its_voxel(self) -> None:
        points = cloud((2.5, 1.5, 0, 1), (0, 0, -1, 2), (4, 0, 0, 3), (-0.1, 0, 0, 4), (3.9, 2.9, 0.9, 5))
        coords = voxelize_dynamic(points, **GRID)
        assert coords.dtype == torch.int32
        assert coords.tolist() == [[0, 1, 2], [0, 0, 0], [-1, -1, -1], [-1, -1, -1], [0, 2, 3]]

    def test_agrees_with_hard_where_that_has_room(self) -> None:
        points = torch.rand(300, 4, generator=torch.Generator().manual_seed(2)) * 5 - 0.5
        fine = {"voxel_size": [0.5, 0.25, 0.5], "point_cloud_range": [0, 0, 0, 4, 4, 4]}
        of_points = voxelize_dynamic(points, **fine)
        voxels, coords, counts = voxelize_hard(points, **fine, max_num_points=20, max_voxels=1000)
        for voxel, coord, count in zip(voxels, coords, counts, strict=True):
            same = (of_points == coord).all(dim=1)
            assert_close(voxel[: int(count)], points[same])

    def test_empty(self) -> None:
        assert voxelize_dynamic(cloud(), **GRID).shape == (0, 3)
