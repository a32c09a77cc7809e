"""Overlap of boxes: turned rectangles seen from above, upright 3D boxes, and axis-aligned rectangles.

The area shared by two rectangles is a contour integral (Green's theorem): the part of each one's outline that lies
inside the other bounds the shared region, so summing cross products over those pieces gives its area. Nothing is
sorted and nothing loops; a pair costs the same whether it barely touches or coincides. Every pair is worked on in its
own small frame, in double precision, because absolute coordinates at 70 m lose up to half an IoU in float32.
Legend: N boxes against M boxes · P pairs that are close enough to meet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raydet3d.ops.points import limit_period

# One rectangle of a pair is shrunk by this share, so that a stretch of outline which both have in common is counted
# for exactly one of them. It changes an area by less than a part in 10^8.
_SHRINK = 1e-9
# A direction this close to an axis is taken as parallel to it.
_PARALLEL = 1e-12
# Pairs clipped in one go on a CPU: keeps some thirty temporaries inside the cache.
_PAIRS_AT_ONCE = 1 << 13
# The same for cells of a table of axis-aligned overlaps.
_CELLS_AT_ONCE = 1 << 15


def rotated_intersection_bev(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Area that every rectangle shares with every other.

    Args:
        boxes1: (N, 5) centre x, y, dx, dy, yaw (counter-clockwise).
        boxes2: (M, 5) the same.

    Returns:
        (N, M) square metres.
    """
    rows, cols = meeting_pairs(boxes1, boxes2)
    areas = _clip_all(_columns(boxes1, rows), _columns(boxes2, cols))
    return _table(boxes1, boxes2, rows, cols, areas)


def rotated_iou_bev(boxes1: Tensor, boxes2: Tensor, *, mode: str = "iou") -> Tensor:
    """Overlap of every rectangle with every other, seen from above.

    Args:
        boxes1: (N, 5) centre x, y, dx, dy, yaw (counter-clockwise).
        boxes2: (M, 5) the same.
        mode: "iou" for intersection over union, "iof" for intersection over the first one's area.

    Returns:
        (N, M) shares; 0 where a box has no area or is not finite.

    Example:
        >>> rotated_iou_bev(torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[1.0, 0, 2, 2, 0]])).round(decimals=4)
        tensor([[0.3333]])
    """
    rows, cols = meeting_pairs(boxes1, boxes2)
    return _table(boxes1, boxes2, rows, cols, pair_iou(boxes1, boxes2, rows, cols, mode=mode))


def rotated_iou_3d(boxes1: Tensor, boxes2: Tensor, *, mode: str = "iou") -> Tensor:
    """Overlap of every upright box with every other.

    Args:
        boxes1: (N, 7+) x, y, z (bottom), dx, dy, dz, yaw (counter-clockwise about z, which points up).
        boxes2: (M, 7+) the same.
        mode: "iou" for intersection over union, "iof" for intersection over the first one's volume.

    Returns:
        (N, M) shares; 0 where a box has no volume or is not finite.
    """
    bev = [0, 1, 3, 4, 6]
    rows, cols = meeting_pairs(boxes1[:, bev], boxes2[:, bev])
    one, two = _columns(boxes1, rows), _columns(boxes2, cols)
    low = torch.maximum(one[2], two[2])
    high = torch.minimum(one[2] + one[5], two[2] + two[5])
    shared = _clip_all(one[bev], two[bev]) * (high - low).clamp_(min=0)
    share = _share(shared, one[3] * one[4] * one[5], two[3] * two[4] * two[5], mode)
    return _table(boxes1, boxes2, rows, cols, share)


def aligned_iou(boxes1: Tensor, boxes2: Tensor, *, mode: str = "iou") -> Tensor:
    """Overlap of every axis-aligned rectangle with every other.

    Args:
        boxes1: (N, 4) x1, y1, x2, y2.
        boxes2: (M, 4) the same.
        mode: "iou" for intersection over union, "iof" for intersection over the first one's area.

    Returns:
        (N, M) shares.
    """
    _check_mode(mode)
    if len(boxes1) > len(boxes2):  # keep the long side innermost: many anchors against a few objects
        return _aligned_share(boxes2, boxes1, mode if mode == "iou" else "second").T
    return _aligned_share(boxes1, boxes2, mode if mode == "iou" else "first")


def _aligned_share(few: Tensor, many: Tensor, over: str) -> Tensor:
    """(F, 4) and (G, 4) to (F, G): shared area over the union ("iou") or over the "first" or "second" one's area."""
    few, (x1, y1, x2, y2) = few.unsqueeze(-1), many.T.contiguous()
    size_few, size_many = (few[:, 2] - few[:, 0]) * (few[:, 3] - few[:, 1]), (x2 - x1) * (y2 - y1)
    share = torch.empty((len(few), len(many)), dtype=many.dtype, device=many.device)
    step = len(few) if many.device.type != "cpu" else max(1, _CELLS_AT_ONCE // max(1, len(many)))
    for begin in range(0, len(few), max(1, step)):
        part = slice(begin, begin + step)
        shared = torch.minimum(few[part, 2], x2).sub_(torch.maximum(few[part, 0], x1)).clamp_(min=0)
        shared *= torch.minimum(few[part, 3], y2).sub_(torch.maximum(few[part, 1], y1)).clamp_(min=0)
        if over == "iou":
            whole = (size_few[part] + size_many).sub_(shared)
        else:
            whole = size_few[part] if over == "first" else size_many
        # MMDetection's floor under a union: anchors of no size overlap nothing.
        torch.div(shared, whole.clamp(min=1e-6), out=share[part])
    return share


def nearest_bev(boxes: Tensor) -> Tensor:
    """Rectangles of upright boxes, each turned to the nearest axis.

    Args:
        boxes: (N, 7+) x, y, z, dx, dy, dz, yaw.

    Returns:
        (N, 4) x1, y1, x2, y2.
    """
    across = limit_period(boxes[:, 6], 0.5, math.pi).abs() > math.pi / 4
    half = torch.where(across[:, None], boxes[:, [4, 3]], boxes[:, 3:5]) / 2
    return torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), dim=1)


def pair_iou(boxes1: Tensor, boxes2: Tensor, rows: Tensor, cols: Tensor, *, mode: str = "iou") -> Tensor:
    """Overlap of chosen pairs of rectangles.

    Args:
        boxes1: (N, 5) centre x, y, dx, dy, yaw (counter-clockwise).
        boxes2: (M, 5) the same.
        rows: (P,) indices into the first boxes.
        cols: (P,) indices into the second boxes.
        mode: As for `rotated_iou_bev`.

    Returns:
        (P,) shares in double precision.
    """
    one, two = _columns(boxes1, rows), _columns(boxes2, cols)
    return _share(_clip_all(one, two), one[2] * one[3], two[2] * two[3], mode)


def _columns(boxes: Tensor, chosen: Tensor) -> Tensor:
    """Chosen boxes in double precision, one contiguous row of P numbers for each of their columns."""
    return boxes.detach().T.double().contiguous().index_select(1, chosen)


def _table(boxes1: Tensor, boxes2: Tensor, rows: Tensor, cols: Tensor, values: Tensor) -> Tensor:
    """Put P values into an (N, M) table of zeros."""
    table = boxes1.new_zeros(len(boxes1) * len(boxes2)).detach()
    table[rows * len(boxes2) + cols] = values.to(table.dtype)
    return table.view(len(boxes1), len(boxes2))


def _clip_all(one: Tensor, two: Tensor) -> Tensor:
    """`_clip` in steps that a processor's cache can hold."""
    count = one.shape[1]
    step = _PAIRS_AT_ONCE if one.device.type == "cpu" else 1 << 22
    if count <= step:
        return _clip(one, two)
    return torch.cat([_clip(one[:, i : i + step], two[:, i : i + step]) for i in range(0, count, step)])


def _check_mode(mode: str) -> None:
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode is 'iou' or 'iof', got {mode!r}")


def _share(shared: Tensor, size1: Tensor, size2: Tensor, mode: str) -> Tensor:
    _check_mode(mode)
    whole = size1 + size2 - shared if mode == "iou" else size1
    share = shared / whole
    return torch.where((whole > 0) & share.isfinite(), share, torch.zeros_like(share))


def meeting_pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Find the pairs of rectangles whose circumscribed circles meet; all others share nothing.

    Args:
        boxes1: (N, 5) centre x, y, dx, dy, yaw.
        boxes2: (M, 5) the same.

    Returns:
        (P,) indices into the first and (P,) into the second boxes.
    """
    boxes1, boxes2 = boxes1.detach(), boxes2.detach()
    # A hair more than the radius, lest rounding drop a pair that touches.
    reach1 = torch.hypot(boxes1[:, 2], boxes1[:, 3]) * 0.500001
    reach2 = torch.hypot(boxes2[:, 2], boxes2[:, 3]) * 0.500001
    step = max(1, (1 << 24) // max(1, len(boxes2)))
    rows, cols = [], []
    for begin in range(0, max(1, len(boxes1)), step):
        part = slice(begin, begin + step)
        square = (boxes1[part, None, 0] - boxes2[:, 0]).square_()
        square += (boxes1[part, None, 1] - boxes2[:, 1]).square_()
        row, col = (square < (reach1[part, None] + reach2).square_()).nonzero(as_tuple=True)
        rows.append(row + begin)
        cols.append(col)
    return (rows[0], cols[0]) if len(rows) == 1 else (torch.cat(rows), torch.cat(cols))


def _clip(one: Tensor, two: Tensor) -> Tensor:
    """Shared area of P pairs of rectangles, each given as five rows of P numbers."""
    dx, dy = one[0] - two[0], one[1] - two[1]
    turn = one[4] - two[4]
    cos, sin = torch.cos(turn), torch.sin(turn)
    cos2, sin2 = torch.cos(two[4]), torch.sin(two[4])
    half1 = one[2:4] * (0.5 - 0.5 * _SHRINK)
    half2 = two[2:4] * 0.5
    # The first one's centre in the second one's frame, and the second one's in the first one's.
    x, y = dx * cos2 + dy * sin2, dy * cos2 - dx * sin2
    u, v = -(x * cos + y * sin), x * sin - y * cos
    # Both sums take their cross products about the same point, the second one's centre.
    area = _outline_inside(x, y, cos, sin, half1, half2, about_window=True)
    area += _outline_inside(u, v, cos, -sin, half2, half1, about_window=False)
    return area.mul_(0.5).clamp_(min=0).nan_to_num_(nan=0.0)


def _outline_inside(
    x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, half: Tensor, window: Tensor, *, about_window: bool
) -> Tensor:
    """Sum of cross products over the part of a rectangle's outline that lies inside an upright window.

    Args:
        x: (P,) the rectangle's centre in the window's frame.
        y: The same.
        cos: (P,) of the rectangle's yaw in that frame.
        sin: The same.
        half: (2, P) half sizes of the rectangle.
        window: (2, P) half sizes of the window, which is centred at the origin.
        about_window: Whether cross products are taken about the window's centre; else about the rectangle's own.
    """
    # The two directions of the edges. An edge lies `away` from the centre, to the right of its direction (normal
    # (ey, -ex)) or to the left, and reaches `long` both ways from its middle.
    ex, ey = torch.stack((cos, -sin)), torch.stack((sin, cos))  # (2, P)
    long, away = half, half.flip(0)
    # Distances along an edge, counted from its middle, at which it enters and leaves the window's two slabs.
    per_x = ex.abs().clamp_(min=_PARALLEL).copysign_(ex).reciprocal_()
    per_y = ey.abs().clamp_(min=_PARALLEL).copysign_(ey).reciprocal_()
    reach_x, reach_y = (window[0] * per_x).abs_(), (window[1] * per_y).abs_()
    base_x, base_y = -x * per_x, -y * per_y
    side_x, side_y = away * ey * per_x, -away * ex * per_y
    right = _length(base_x - side_x, base_y - side_y, reach_x, reach_y, long)
    left = _length(base_x + side_x, base_y + side_y, reach_x, reach_y, long)
    # Along an edge the cross product with its direction is constant: the edge's distance from the point.
    total = away * (right + left)
    if about_window:
        total += (x * ey - y * ex) * (right - left)
    return total[0] + total[1]


def _length(middle_x: Tensor, middle_y: Tensor, reach_x: Tensor, reach_y: Tensor, long: Tensor) -> Tensor:
    """Length that three intervals have in common: two given by middle and reach, one of `long` about zero."""
    enter = torch.maximum(torch.maximum(middle_x - reach_x, middle_y - reach_y), -long)
    leave = torch.minimum(torch.minimum(middle_x + reach_x, middle_y + reach_y), long)
    return leave.sub_(enter).clamp_(min=0)
