"""Non-maximum suppression by MMDetection3D's names, for plug-ins; models call `raydet3d.ops.nms`.

Shapes: N boxes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raydet3d.ops import nms_aligned, nms_circle, nms_rotated, rotated_iou_3d


def nms_bev(
    boxes: Tensor, scores: Tensor, thresh: float, pre_max_size: int | None = None, post_max_size: int | None = None
) -> Tensor:
    """Suppress boxes by rotated bird's-eye-view IoU.

    Args:
        boxes: (N, 5) x1, y1, x2, y2 of the box without its yaw, and the yaw.
        scores: (N,) scores.
        thresh: IoU above which a box is suppressed by a better one.
        pre_max_size: Number of best boxes that take part; None for all.
        post_max_size: Maximum number of results; None for all.

    Returns:
        Indices of the kept boxes, best first.
    """
    return nms_rotated(xyxyr_to_xywhr(boxes), scores, thresh, pre_max=pre_max_size, post_max=post_max_size)


def nms_normal_bev(boxes: Tensor, scores: Tensor, thresh: float) -> Tensor:
    """Suppress boxes (N, 5) x1, y1, x2, y2, yaw by the IoU of the boxes without their yaws; indices, best first."""
    return nms_aligned(boxes[:, :4], scores, thresh)


def nms3d(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppress 3D boxes by rotated bird's-eye-view IoU.

    Args:
        boxes: (N, 7) centre x, y, z, dx, dy, dz, yaw.
        scores: (N,) scores.
        iou_threshold: IoU above which a box is suppressed by a better one.

    Returns:
        Indices of the kept boxes, best first.
    """
    return nms_rotated(boxes[:, [0, 1, 3, 4, 6]], scores, iou_threshold)


def nms3d_normal(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppress 3D boxes (N, 7) by the bird's-eye-view IoU of the boxes without their yaws; otherwise as `nms3d`."""
    center, half = boxes[:, :2], boxes[:, 3:5] / 2
    return nms_aligned(torch.cat((center - half, center + half), dim=1), scores, iou_threshold)


def boxes_iou3d(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Compute the 3D IoU (N, M) of every pair of boxes (N, 7) and (M, 7): centre x, y, z, dx, dy, dz, yaw."""
    bottom_a, bottom_b = boxes_a.clone(), boxes_b.clone()
    bottom_a[:, 2] -= bottom_a[:, 5] / 2
    bottom_b[:, 2] -= bottom_b[:, 5] / 2
    return rotated_iou_3d(bottom_a, bottom_b)


def circle_nms(dets: Tensor, thresh: float, post_max_size: int = 83) -> list[int]:
    """Suppress boxes whose centre is close to a better one's.

    Args:
        dets: (N, 3) centre x, y and score.
        thresh: **Squared** distance up to which a box is suppressed.
        post_max_size: Maximum number of results.

    Returns:
        Indices of the kept boxes, best first.
    """
    table = torch.as_tensor(dets)
    kept: list[int] = nms_circle(table[:, :2], table[:, 2], thresh, post_max=post_max_size).tolist()
    return kept


def xyxyr_to_xywhr(boxes: Tensor) -> Tensor:
    """Turn (N, 5) x1, y1, x2, y2, yaw into centre x, y, dx, dy, yaw."""
    low, high = boxes[:, :2], boxes[:, 2:4]
    return torch.cat(((low + high) / 2, high - low, boxes[:, 4:5]), dim=1)


def box3d_multiclass_nms(
    mlvl_bboxes: Tensor,
    mlvl_bboxes_for_nms: Tensor,
    mlvl_scores: Tensor,
    score_thr: float,
    max_num: int,
    cfg: Mapping[str, float],
    mlvl_dir_scores: Tensor | None = None,
    mlvl_attr_scores: Tensor | None = None,
    mlvl_bboxes2d: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Suppress boxes class by class and keep the best of all classes.

    Args:
        mlvl_bboxes: (N, C) boxes.
        mlvl_bboxes_for_nms: (N, 5) x1, y1, x2, y2, yaw of each.
        mlvl_scores: (N, classes + 1) scores, the background last.
        score_thr: Scores up to this one are dropped.
        max_num: Maximum number of results.
        cfg: `nms_thr`, and `use_rotate_nms`.
        mlvl_dir_scores: (N,) direction of each.
        mlvl_attr_scores: (N,) attribute of each.
        mlvl_bboxes2d: (N, 4) 2D box of each.

    Returns:
        Boxes, scores and classes of the results, and the selected rows of the optional arguments that were given.
    """
    suppress = nms_bev if cfg.get("use_rotate_nms", True) else nms_normal_bev
    index, labels = [], []
    for label in range(mlvl_scores.shape[1] - 1):
        own = (mlvl_scores[:, label] > score_thr).nonzero().squeeze(1)
        kept = own[suppress(mlvl_bboxes_for_nms[own], mlvl_scores[own, label], cfg["nms_thr"])] if len(own) else own
        index.append(kept)
        labels.append(torch.full_like(kept, label))
    chosen, classes = torch.cat(index), torch.cat(labels)
    scores = mlvl_scores[chosen, classes]
    if len(chosen) > max_num:
        top = scores.argsort(descending=True, stable=True)[:max_num]
        chosen, classes, scores = chosen[top], classes[top], scores[top]
    further = (mlvl_dir_scores, mlvl_attr_scores, mlvl_bboxes2d)
    return (mlvl_bboxes[chosen], scores, classes, *(one[chosen] for one in further if one is not None))
