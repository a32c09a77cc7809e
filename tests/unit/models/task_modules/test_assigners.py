"""Assignment against a double loop over anchors and objects, written from the rules' text; and the grid's windows
against comparing all with all."""

import math

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.models.task_modules.assigners import Max3DIoUAssigner
from raydet3d.ops import AnchorGrid
from raydet3d.registry import TASK_UTILS

SIZES = {"ped": [0.8, 0.6, 1.73], "car": [3.9, 1.6, 1.56]}


def grid_of(size, height=24, width=30, cell=0.32):
    return TASK_UTILS.build(
        {
            "type": "AlignedAnchor3DRangeGenerator",
            "ranges": [[0, -height * cell / 2, -1, width * cell, height * cell / 2, -1]],
            "sizes": [size],
            "rotations": [0, 1.57],
        }
    ).single_level_grid_anchors((height, width), 1, device="cpu")[0, :, :, 0]


def random_boxes(count, size, generator, span=(9.6, 7.7)):
    boxes = torch.empty(count, 7)
    boxes[:, 0] = torch.rand(count, generator=generator) * span[0]
    boxes[:, 1] = (torch.rand(count, generator=generator) - 0.5) * span[1]
    boxes[:, 2] = -1
    boxes[:, 3:6] = torch.tensor(size) * (0.7 + 0.6 * torch.rand(count, 3, generator=generator))
    boxes[:, 6] = (torch.rand(count, generator=generator) - 0.5) * 12
    return boxes


def nearest(box):
    x, y, _, dx, dy, _, yaw = box
    turned = abs(yaw - math.floor(yaw / math.pi + 0.5) * math.pi)
    if turned > math.pi / 4:
        dx, dy = dy, dx
    return x - dx / 2, y - dy / 2, x + dx / 2, y + dy / 2


def iou(a, b):
    ax1, ay1, ax2, ay2 = nearest(a)
    bx1, by1, bx2, by2 = nearest(b)
    shared = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    return shared / max((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared, 1e-6)


def by_loops(anchors, boxes, pos, neg, min_pos, tie=1e-5):
    """-1 ignored, -2 background, else the object; None where rounding decides (a tie, or a threshold)."""
    table = [[iou(b, a) for a in anchors] for b in boxes]
    out = []
    best_of_box = [max(row) for row in table]
    for a in range(len(anchors)):
        column = [row[a] for row in table]
        best = max(column)
        state = -1
        if best < neg:
            state = -2
        if best >= pos:
            state = column.index(best)
        for k, row in enumerate(table):
            if best_of_box[k] >= min_pos and abs(row[a] - best_of_box[k]) <= tie / 100:
                state = k
        unsure = [abs(best - pos) < tie, abs(best - neg) < tie]
        unsure += [0 < abs(row[a] - best_of_box[k]) < tie for k, row in enumerate(table)]
        unsure.append(sum(abs(value - best) < tie for value in column) > 1 and best >= neg)
        out.append(None if any(unsure) else state)
    return out


def as_states(found, count):
    states = torch.full((count,), -2)
    states[found.ignored] = -1
    states[found.positive] = found.gt_inds
    return states.tolist()


@pytest.mark.parametrize(
    ("size", "pos", "neg", "min_pos"), [("car", 0.6, 0.45, 0.45), ("ped", 0.5, 0.35, 0.35), ("car", 0.5, 0.3, 0.1)]
)
def test_equals_the_double_loop(size, pos, neg, min_pos):
    anchors = grid_of(SIZES[size], 12, 16)
    rows = anchors.flatten(0, 2)
    generator = torch.Generator().manual_seed(3)
    boxes = random_boxes(5, SIZES[size], generator, span=(5.1, 3.8))
    assigner = Max3DIoUAssigner(pos_iou_thr=pos, neg_iou_thr=neg, min_pos_iou=min_pos)
    wanted = by_loops(rows.double().tolist(), boxes.double().tolist(), pos, neg, min_pos)
    found = as_states(assigner.assign_sparse(rows, boxes), len(rows))
    sure = [i for i, state in enumerate(wanted) if state is not None]
    assert len(sure) > 0.8 * len(rows)
    assert [found[i] for i in sure] == [wanted[i] for i in sure]
    assert max(wanted[i] for i in sure) >= 0
    grid = AnchorGrid.from_anchors(anchors)
    by_grid = as_states(assigner.assign_grid(grid, boxes, torch.zeros(5, dtype=torch.long)), len(rows))
    assert by_grid == found


@pytest.mark.parametrize("size", ["car", "ped"])
@pytest.mark.parametrize("seed", range(6))
def test_windows_equal_comparing_all_with_all(size, seed):
    """To the last bit: ties between anchors, and objects on and beyond the border, come out the same."""
    anchors = grid_of(SIZES[size])
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(25, SIZES[size], generator, span=(14.0, 12.0))
    boxes[:6, :2] = (boxes[:6, :2] / 0.16).round() * 0.16  # on cells and between them: many exact ties
    boxes[:6, 3:6] = torch.tensor(SIZES[size])
    boxes[:3, 6] = 0
    boxes[6] = boxes[5]  # the same object twice
    boxes[7, :2] = torch.tensor([500.0, -500.0])
    boxes[8, 3:5] = 100.0  # larger than the map
    frames = torch.randint(0, 3, (25,), generator=generator).sort().values
    assigner = Max3DIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.35, min_pos_iou=0.35)
    found = assigner.assign_grid(AnchorGrid.from_anchors(anchors), boxes, frames)
    rows = anchors.flatten(0, 2)
    for frame in range(3):
        own = (frames == frame).nonzero().squeeze(1)
        dense = assigner.assign_sparse(rows, boxes[own])
        mine = found.positive // len(rows) == frame
        assert (found.positive[mine] - frame * len(rows)).tolist() == dense.positive.tolist()
        assert found.gt_inds[mine].tolist() == own[dense.gt_inds].tolist()
        ignored = found.ignored[found.ignored // len(rows) == frame] - frame * len(rows)
        assert ignored.tolist() == dense.ignored.tolist()
    assert len(found.positive) > 10


def test_an_object_takes_all_anchors_that_tie_and_the_last_object_wins():
    """An object midway between two anchors takes both; a second one on the same place takes them from the first."""
    anchors = torch.tensor([[0.0, 0, 0, 2, 2, 1, 0], [1.0, 0, 0, 2, 2, 1, 0], [9.0, 0, 0, 2, 2, 1, 0]])
    middle = torch.tensor([[0.5, 0.0, 0, 2, 2, 1, 0]])  # IoU 1.5 * 2 / (8 - 3) = 0.6 with both
    assigner = Max3DIoUAssigner(pos_iou_thr=0.9, neg_iou_thr=0.3, min_pos_iou=0.3)
    found = assigner.assign_sparse(anchors, middle)
    assert found.positive.tolist() == [0, 1]
    found = assigner.assign_sparse(anchors, middle.repeat(2, 1))
    assert (found.positive.tolist(), found.gt_inds.tolist()) == ([0, 1], [1, 1])
    for stricter in ({"min_pos_iou": 0.7}, {"min_pos_iou": 0.3, "match_low_quality": False}):
        found = Max3DIoUAssigner(pos_iou_thr=0.9, neg_iou_thr=0.3, **stricter).assign_sparse(anchors, middle)
        assert (found.positive.tolist(), found.ignored.tolist()) == ([], [0, 1])


def test_without_objects_all_is_background():
    anchors = grid_of(SIZES["car"])
    assigner = Max3DIoUAssigner(pos_iou_thr=0.6, neg_iou_thr=0.45, min_pos_iou=0.45)
    nothing = torch.zeros(0, 7)
    for found in (
        assigner.assign_sparse(anchors.flatten(0, 2), nothing),
        assigner.assign_grid(AnchorGrid.from_anchors(anchors), nothing, torch.zeros(0, dtype=torch.long)),
    ):
        assert not len(found.positive)
        assert not len(found.ignored)


def test_refuses_what_it_would_ignore():
    with pytest.raises(InputError, match="neg_iou_thr"):
        Max3DIoUAssigner(pos_iou_thr=0.3, neg_iou_thr=0.5)
    with pytest.raises(InputError, match="ignore_iof_thr"):
        Max3DIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.3, ignore_iof_thr=0.5)
    with pytest.raises(InputError, match="coordinate"):
        TASK_UTILS.build({"type": "BboxOverlapsNearest3D", "coordinate": "camera"})
