import math

import pytest
import torch

from raydet3d.ops import nms_aligned, nms_circle, nms_rotated
from raydet3d.ops.nms import suppress_fixpoint, suppress_greedy


def test_rotated_keeps_the_best_of_each_heap() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 4, 2, 0],
            [0.1, 0, 4, 2, 0],  # on the first
            [10, 0, 4, 2, 1.0],
            [10, 0, 4, 2, 1.0 + math.pi],  # the third one turned round: the same rectangle
            [20, 0, 4, 2, 0],
        ]
    )
    scores = torch.tensor([0.5, 0.9, 0.3, 0.8, 0.1])
    assert nms_rotated(boxes, scores, 0.5).tolist() == [1, 3, 4]
    assert nms_rotated(boxes, scores, 0.5, post_max=2).tolist() == [1, 3]
    assert nms_rotated(boxes, scores, 0.5, pre_max=2).tolist() == [1, 3]
    assert nms_rotated(boxes, scores, 0.5, pre_max=1).tolist() == [1]
    assert nms_rotated(boxes, scores, 1.0).tolist() == [1, 3, 0, 2, 4]


def test_a_suppressed_box_suppresses_nobody() -> None:
    """A row of boxes, each overlapping its neighbours by 1/3: the first removes the second, the third stays."""
    boxes = torch.tensor([[float(i), 0, 2, 2, 0] for i in range(6)])
    scores = torch.linspace(1, 0.5, 6)
    assert nms_rotated(boxes, scores, 0.3).tolist() == [0, 2, 4]


def test_the_threshold_itself_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 1], [1.0, 0, 3, 1]])  # IoU 1/3, as float32 has it
    third = (torch.tensor(1.0) / 3).item()
    scores = torch.tensor([1.0, 0.5])
    assert nms_aligned(boxes, scores, third).tolist() == [0, 1]
    assert nms_aligned(boxes, scores, 0.33).tolist() == [0]


def test_rotated_at_zero_removes_only_what_overlaps() -> None:
    """The second box's circle meets the first one's, the box does not."""
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [0.0, 2.5, 4, 2, 0], [0.0, 0.1, 4, 2, 0]])
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.0).tolist() == [0, 1]


def test_circle_compares_the_square_and_includes_it() -> None:
    centers = torch.tensor([[0.0, 0.0, 7.0], [2.0, 0.0, 7.0], [0.0, 2.5, 7.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert nms_circle(centers, scores, 4.0).tolist() == [0, 2]  # 2 * 2 <= 4, 2.5 * 2.5 > 4
    assert nms_circle(centers, scores, 3.9).tolist() == [0, 1, 2]
    assert nms_circle(centers, scores, 4.0, post_max=1).tolist() == [0]


@pytest.mark.parametrize("nms", [nms_rotated, nms_aligned, nms_circle])
def test_no_boxes(nms) -> None:
    kept = nms(torch.zeros(0, 4 if nms is nms_aligned else 5), torch.zeros(0), 0.5)
    assert kept.dtype == torch.long
    assert kept.shape == (0,)


@pytest.mark.parametrize("nms", [nms_rotated, nms_aligned, nms_circle])
def test_ties_go_to_the_first(nms) -> None:
    where = [[0.0, 0, 2, 2], [0.0, 0, 2, 2], [50.0, 50, 52, 52], [50.0, 50, 52, 52]]
    rows = [[*row, 0.0] if nms is not nms_aligned else row for row in where]
    assert nms(torch.tensor(rows), torch.full((4,), 0.5), 0.1).tolist() == [0, 2]


@pytest.mark.parametrize("density", [0.0, 0.003, 0.02, 0.1, 0.5, 1.0])
def test_fixpoint_is_greedy(density: float) -> None:
    for seed in range(5):
        conflict = torch.rand(120, 120, generator=torch.Generator().manual_seed(seed)) < density
        assert torch.equal(suppress_fixpoint(conflict), suppress_greedy(conflict))


def test_fixpoint_on_the_longest_chain() -> None:
    """Each box conflicts with its neighbour only: as many rounds as boxes."""
    conflict = torch.diag(torch.ones(98, dtype=torch.bool), 1)
    expected = [i % 2 == 0 for i in range(99)]
    assert suppress_fixpoint(conflict).tolist() == expected
    assert suppress_greedy(conflict).tolist() == expected
    assert suppress_fixpoint(torch.zeros(0, 0, dtype=torch.bool)).tolist() == []
