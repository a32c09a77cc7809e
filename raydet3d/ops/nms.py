"""Non-maximum suppression by rotated IoU, by axis-aligned IoU and by distance.

All functions take N boxes in any order and return indices by descending score; ties keep the given order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raydet3d.ops.iou import aligned_iou, meeting_pairs, pair_iou


def nms_rotated(
    boxes: Tensor, scores: Tensor, threshold: float, *, pre_max: int | None = None, post_max: int | None = None
) -> Tensor:
    """Suppress boxes whose bird's-eye-view IoU with a better kept one is above a threshold.

    Args:
        boxes: (N, 5) centre x, y, dx, dy, yaw (counter-clockwise).
        scores: (N,) scores.
        threshold: IoU above which (strictly) a box is suppressed.
        pre_max: Number of best boxes that take part; None for all.
        post_max: Maximum number of results; None for all.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = _best_first(scores, pre_max)
    chosen = boxes[order].detach()
    better, worse = meeting_pairs(chosen, chosen)
    once = better < worse
    better, worse = better[once], worse[once]
    conflict = torch.zeros((len(chosen), len(chosen)), dtype=torch.bool, device=boxes.device)
    conflict[better, worse] = pair_iou(chosen, chosen, better, worse) > threshold
    return order[suppress(conflict)][:post_max]


def nms_aligned(
    boxes: Tensor, scores: Tensor, threshold: float, *, pre_max: int | None = None, post_max: int | None = None
) -> Tensor:
    """Suppress axis-aligned boxes (N, 4) x1, y1, x2, y2; otherwise as `nms_rotated`."""
    order = _best_first(scores, pre_max)
    chosen = boxes[order]
    return order[suppress(aligned_iou(chosen, chosen) > threshold)][:post_max]


def nms_circle(
    centers: Tensor, scores: Tensor, threshold: float, *, pre_max: int | None = None, post_max: int | None = None
) -> Tensor:
    """Suppress boxes whose centre is close to a better one's.

    Args:
        centers: (N, 2+) centre x, y; further columns are not used.
        scores: (N,) scores.
        threshold: **Squared** distance up to which (inclusive) a box is suppressed; CenterPoint's configs call it
            `min_radius` and compare it with the squared distance as well.
        pre_max: Number of best boxes that take part; None for all.
        post_max: Maximum number of results; None for all.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = _best_first(scores, pre_max)
    x, y = centers[order, 0], centers[order, 1]
    square = (x[:, None] - x).square_() + (y[:, None] - y).square_()
    return order[suppress(square <= threshold)][:post_max]


def multiclass_nms(
    boxes: Tensor, scores: Tensor, *, score_thr: float, iou_thr: float, max_num: int, rotated: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress boxes class by class and keep the best of all classes.

    Args:
        boxes: (N, 5) centre x, y, dx, dy, yaw (counter-clockwise).
        scores: (N, C) of each class.
        score_thr: Scores up to this one are dropped.
        iou_thr: IoU above which a box is suppressed by a better one of its class.
        max_num: Maximum number of results.
        rotated: Use the rotated IoU; False uses the IoU of the boxes without their yaws.

    Returns:
        Indices, scores and classes of the results: class by class, or by score where more than `max_num` were left.
    """
    half = boxes[:, 2:4] / 2
    rectangles = torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), 1)
    index, labels = [scores.new_empty(0, dtype=torch.long)], [scores.new_empty(0, dtype=torch.long)]
    for label in range(scores.shape[1]):
        own = (scores[:, label] > score_thr).nonzero().squeeze(1)
        if not len(own):
            continue
        if rotated:
            kept = own[nms_rotated(boxes[own], scores[own, label], iou_thr)]
        else:
            kept = own[nms_aligned(rectangles[own], scores[own, label], iou_thr)]
        index.append(kept)
        labels.append(torch.full_like(kept, label))
    chosen, classes = torch.cat(index), torch.cat(labels)
    best = scores[chosen, classes]
    if len(chosen) > max_num:
        top = best.argsort(descending=True, stable=True)[:max_num]
        chosen, classes, best = chosen[top], classes[top], best[top]
    return chosen, best, classes


def suppress(conflict: Tensor) -> Tensor:
    """Return which boxes are kept when each kept box removes the later ones that it is in conflict with.

    Args:
        conflict: (N, N) booleans, boxes by descending score; only the part above the diagonal is used.

    Returns:
        (N,) booleans.
    """
    return suppress_greedy(conflict) if conflict.device.type == "cpu" else suppress_fixpoint(conflict)


def suppress_greedy(conflict: Tensor) -> Tensor:
    """Compute `suppress` in one loop over the boxes; for CPUs."""
    rows = conflict.numpy()
    removed = np.zeros(len(rows), dtype=bool)
    kept = np.zeros(len(rows), dtype=bool)
    for i in range(len(rows)):
        if not removed[i]:
            kept[i] = True
            removed[i:] |= rows[i, i:]
    return torch.from_numpy(kept)


def suppress_fixpoint(conflict: Tensor) -> Tensor:
    """Compute `suppress` as a fixpoint; for GPUs.

    Greedy suppression is the only solution of "kept = in conflict with no earlier kept box". Starting from all boxes,
    each iteration decides at least one more link of every chain of conflicts, so it ends after as many iterations as
    the longest chain has links; about nine in practice.
    """
    before = torch.triu(conflict, diagonal=1).float()
    kept = conflict.new_ones(len(conflict), dtype=torch.float32)
    while True:
        # Several iterations between comparisons, because a comparison synchronizes with the device.
        for _ in range(4):
            last = kept
            kept = (kept @ before == 0).float()
        if torch.equal(kept, last):
            return kept.bool()


def _best_first(scores: Tensor, pre_max: int | None) -> Tensor:
    return scores.argsort(descending=True, stable=True)[:pre_max]
