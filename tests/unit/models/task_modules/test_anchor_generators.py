"""Anchor generators against places worked out by hand."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import TASK_UTILS


def make(kind: str, **kwargs):
    return TASK_UTILS.build({"type": kind, "ranges": [[0, -4, -1, 8, 4, -1]], "sizes": [[2, 1, 1.5]], **kwargs})


def test_plain_includes_both_ends():
    grid = make("Anchor3DRangeGenerator").single_level_grid_anchors((3, 5), 1, device="cpu")
    assert grid.shape == (1, 3, 5, 1, 2, 7)
    assert grid[0, 0, :, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert grid[0, :, 0, 0, 0, 1].tolist() == [-4, 0, 4]
    assert grid[0, 1, 2, 0, 1].tolist() == pytest.approx([4, 0, -1, 2, 1, 1.5, 1.5707963])


def test_aligned_stands_at_cell_centres():
    grid = make("AlignedAnchor3DRangeGenerator").single_level_grid_anchors((2, 4), 1, device="cpu")
    assert grid[0, 0, :, 0, 0, 0].tolist() == [1, 3, 5, 7]
    assert grid[0, :, 0, 0, 0, 1].tolist() == [-2, 2]
    corner = make("AlignedAnchor3DRangeGenerator", align_corner=True).single_level_grid_anchors((2, 4), 1, device="cpu")
    assert corner[0, 0, :, 0, 0, 0].tolist() == [0, 2, 4, 6]


def test_order_sizes_then_rotations():
    generator = make(
        "AlignedAnchor3DRangeGenerator",
        sizes=[[2, 1, 1], [4, 2, 1]],
        rotations=[0, 1.57],
        scales=[1, 2],
        custom_values=[0, 0],
        size_per_range=False,
    )
    assert (generator.num_base_anchors, generator.box_code_size, generator.num_levels) == (4, 9, 2)
    flat = generator.single_level_grid_anchors((1, 1), 1, device="cpu").view(4, 9)
    assert flat[:, 3].tolist() == [2, 2, 4, 4]
    assert flat[:, 6].tolist() == pytest.approx([0, 1.57, 0, 1.57])
    assert flat[:, 7:].abs().max() == 0
    assert generator.single_level_grid_anchors((1, 1), 2, device="cpu").view(4, 9)[:, 3].tolist() == [4, 4, 8, 8]


def test_refuses_lists_that_do_not_match():
    with pytest.raises(InputError, match="2 ranges for 3 sizes"):
        make("Anchor3DRangeGenerator", ranges=[[0] * 6] * 2, sizes=[[1, 1, 1]] * 3)
    with pytest.raises(InputError, match="6 numbers"):
        make("Anchor3DRangeGenerator", ranges=[[0, 1, 2]])


def test_on_another_dtype_device():
    assert make("Anchor3DRangeGenerator").single_level_grid_anchors((2, 2), 1, device="meta").is_meta
    assert make("Anchor3DRangeGenerator").single_level_grid_anchors((2, 2), 1, device="cpu").dtype == torch.float32


def test_grid_anchors_of_several_levels_are_flat_or_gridded():
    sizes = [(2, 3), (1, 2)]
    flat = make("Anchor3DRangeGenerator", scales=[1, 2]).grid_anchors(sizes, device="cpu")
    grids = make("Anchor3DRangeGenerator", scales=[1, 2], reshape_out=False).grid_anchors(sizes, device="cpu")
    assert [tuple(one.shape) for one in grids] == [(1, 2, 3, 1, 2, 7), (1, 1, 2, 1, 2, 7)]
    for one, other in zip(flat, grids, strict=True):
        assert torch.equal(one, other.view(-1, 7))


def test_overriding_anchors_of_a_single_range_changes_grid_anchors():
    from raydet3d.models import Anchor3DRangeGenerator

    class Raised(Anchor3DRangeGenerator):
        def anchors_single_range(self, *args, **kwargs):
            anchors = super().anchors_single_range(*args, **kwargs)
            anchors[..., 2] += 5
            return anchors

    with TASK_UTILS.temporary(Raised=Raised):
        (anchors,) = make("Raised").grid_anchors([(2, 2)], device="cpu")
    assert anchors[:, 2].unique().tolist() == [4]
