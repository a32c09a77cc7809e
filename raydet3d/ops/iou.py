"""IoU of rotated bird's-eye-view rectangles, upright 3D boxes, and axis-aligned rectangles.

The area shared by two rectangles is a contour integral (Green's theorem): the parts of each outline inside the other
rectangle bound the shared region, and the sum of cross products over them is its area. No sorting, no loops. Every
pair is computed in its own frame and in float64, because absolute coordinates at 70 m lose up to half an IoU in
float32.

Shapes: N boxes against M boxes, P pairs whose circumscribed circles meet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raydet3d.ops.points import limit_period

# One rectangle of a pair is shrunk by this factor, so that a common part of the outlines is counted for exactly one of
# them. It changes an area by less than 1e-8 (relative).
_SHRINK = 1e-9
# A direction this close to an axis counts as parallel to it.
_PARALLEL = 1e-12
# Pairs that are clipped at a time on a CPU: about thirty temporaries stay in the cache.
_PAIRS_PER_STEP = 1 << 13
# The same for entries of a matrix of axis-aligned IoUs.
_ENTRIES_PER_STEP = 1 << 15


def rotated_intersection_bev(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the shared area of every pair of rectangles.

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
    """Compute the IoU of every pair of rotated rectangles.

    Args:
        boxes1: (N, 5) centre x, y, dx, dy, yaw (counter-clockwise).
        boxes2: (M, 5) the same.
        mode: "iou" for intersection over union, "iof" for intersection over the first one's area.

    Returns:
        (N, M) IoUs; 0 where a box has no area or is not finite.

    Example:
        >>> rotated_iou_bev(torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[1.0, 0, 2, 2, 0]])).round(decimals=4)
        tensor([[0.3333]])
    """
    rows, cols = meeting_pairs(boxes1, boxes2)
    return _table(boxes1, boxes2, rows, cols, pair_iou(boxes1, boxes2, rows, cols, mode=mode))


def rotated_iou_3d(boxes1: Tensor, boxes2: Tensor, *, mode: str = "iou") -> Tensor:
    """Compute the 3D IoU of every pair of upright boxes.

    Args:
        boxes1: (N, 7+) x, y, z (bottom), dx, dy, dz, yaw (counter-clockwise about z, which points up).
        boxes2: (M, 7+) the same.
        mode: "iou" for intersection over union, "iof" for intersection over the first one's volume.

    Returns:
        (N, M) IoUs; 0 where a box has no volume or is not finite.
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
    """Compute the IoU of every pair of axis-aligned rectangles.

    Args:
        boxes1: (N, 4) x1, y1, x2, y2.
        boxes2: (M, 4) the same.
        mode: "iou" for intersection over union, "iof" for intersection over the first one's area.

    Returns:
        (N, M) IoUs.
    """
    _check_mode(mode)
    if len(boxes1) > len(boxes2):  # the longer side innermost: many anchors against few boxes
        return _aligned_share(boxes2, boxes1, mode if mode == "iou" else "second").T
    return _aligned_share(boxes1, boxes2, mode if mode == "iou" else "first")


def _aligned_share(few: Tensor, many: Tensor, over: str) -> Tensor:
    """Divide the shared areas (F, G) of (F, 4) and (G, 4) rectangles by the union or by one of the areas.

    Args:
        few: (F, 4) rectangles.
        many: (G, 4) rectangles.
        over: "iou" for the union, "first" or "second" for the area of `few` or `many`.
    """
    few, (x1, y1, x2, y2) = few.unsqueeze(-1), many.T.contiguous()
    size_few, size_many = (few[:, 2] - few[:, 0]) * (few[:, 3] - few[:, 1]), (x2 - x1) * (y2 - y1)
    share = torch.empty((len(few), len(many)), dtype=many.dtype, device=many.device)
    step = len(few) if many.device.type != "cpu" else max(1, _ENTRIES_PER_STEP // max(1, len(many)))
    for begin in range(0, len(few), max(1, step)):
        part = slice(begin, begin + step)
        shared = torch.minimum(few[part, 2], x2).sub_(torch.maximum(few[part, 0], x1)).clamp_(min=0)
        shared *= torch.minimum(few[part, 3], y2).sub_(torch.maximum(few[part, 1], y1)).clamp_(min=0)
        if over == "iou":
            whole = (size_few[part] + size_many).sub_(shared)
        else:
            whole = size_few[part] if over == "first" else size_many
        # MMDetection's lower bound of a union: anchors without area overlap nothing.
        torch.div(shared, whole.clamp(min=1e-6), out=share[part])
    return share


def nearest_bev(boxes: Tensor) -> Tensor:
    """Return the bird's-eye-view rectangles of upright boxes, rotated to the nearest axis.

    Args:
        boxes: (N, 7+) x, y, z, dx, dy, dz, yaw.

    Returns:
        (N, 4) x1, y1, x2, y2.
    """
    across = limit_period(boxes[:, 6], 0.5, math.pi).abs() > math.pi / 4
    half = torch.where(across[:, None], boxes[:, [4, 3]], boxes[:, 3:5]) / 2
    return torch.cat((boxes[:, :2] - half, boxes[:, :2] + half), dim=1)


def pair_iou(boxes1: Tensor, boxes2: Tensor, rows: Tensor, cols: Tensor, *, mode: str = "iou") -> Tensor:
    """Compute the IoU of chosen pairs of rotated rectangles.

    Args:
        boxes1: (N, 5) centre x, y, dx, dy, yaw (counter-clockwise).
        boxes2: (M, 5) the same.
        rows: (P,) indices into the first boxes.
        cols: (P,) indices into the second boxes.
        mode: As for `rotated_iou_bev`.

    Returns:
        (P,) IoUs in float64.
    """
    one, two = _columns(boxes1, rows), _columns(boxes2, cols)
    return _share(_clip_all(one, two), one[2] * one[3], two[2] * two[3], mode)


def _columns(boxes: Tensor, chosen: Tensor) -> Tensor:
    """Return chosen boxes in float64 as (columns, P), contiguous."""
    return boxes.detach().T.double().contiguous().index_select(1, chosen)


def _table(boxes1: Tensor, boxes2: Tensor, rows: Tensor, cols: Tensor, values: Tensor) -> Tensor:
    """Write P values into an (N, M) matrix of zeros."""
    table = boxes1.new_zeros(len(boxes1) * len(boxes2)).detach()
    table[rows * len(boxes2) + cols] = values.to(table.dtype)
    return table.view(len(boxes1), len(boxes2))


def _clip_all(one: Tensor, two: Tensor) -> Tensor:
    """Compute `_clip` in steps that fit into the cache."""
    count = one.shape[1]
    step = _PAIRS_PER_STEP if one.device.type == "cpu" else 1 << 22
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
    """Find the pairs of rectangles whose circumscribed circles meet; all others have IoU 0.

    Args:
        boxes1: (N, 5) centre x, y, dx, dy, yaw.
        boxes2: (M, 5) the same.

    Returns:
        (P,) indices into the first and (P,) into the second boxes.
    """
    boxes1, boxes2 = boxes1.detach(), boxes2.detach()
    # Slightly more than the radius, so that rounding does not drop a pair that touches.
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
    """Compute the shared areas of P pairs of rectangles, both (5, P)."""
    dx, dy = one[0] - two[0], one[1] - two[1]
    turn = one[4] - two[4]
    cos, sin = torch.cos(turn), torch.sin(turn)
    cos2, sin2 = torch.cos(two[4]), torch.sin(two[4])
    half1 = one[2:4] * (0.5 - 0.5 * _SHRINK)
    half2 = two[2:4] * 0.5
    # Centre of the first in the frame of the second, and centre of the second in the frame of the first.
    x, y = dx * cos2 + dy * sin2, dy * cos2 - dx * sin2
    u, v = -(x * cos + y * sin), x * sin - y * cos
    # Both sums take cross products about the same point, the centre of the second.
    area = _outline_inside(x, y, cos, sin, half1, half2, about_window=True)
    area += _outline_inside(u, v, cos, -sin, half2, half1, about_window=False)
    return area.mul_(0.5).clamp_(min=0).nan_to_num_(nan=0.0)


def _outline_inside(
    x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, half: Tensor, window: Tensor, *, about_window: bool
) -> Tensor:
    """Sum cross products over the part of a rectangle's outline inside an axis-aligned window.

    Args:
        x: (P,) centre of the rectangle in the frame of the window.
        y: (P,) the same.
        cos: (P,) cosine of the rectangle's yaw in that frame.
        sin: (P,) sine of it.
        half: (2, P) half sizes of the rectangle.
        window: (2, P) half sizes of the window, centred at the origin.
        about_window: Take cross products about the centre of the window instead of the rectangle's.
    """
    # The two directions of the edges. An edge lies `away` from the centre, to the right of its direction (normal
    # (ey, -ex)) or to the left, and extends by `long` both ways from its middle.
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
    # The cross product with the direction is constant along an edge: the distance of the edge from the point.
    total = away * (right + left)
    if about_window:
        total += (x * ey - y * ex) * (right - left)
    return total[0] + total[1]


def _length(middle_x: Tensor, middle_y: Tensor, reach_x: Tensor, reach_y: Tensor, long: Tensor) -> Tensor:
    """Intersect three intervals: two given by middle and half length, one of half length `long` about zero."""
    enter = torch.maximum(torch.maximum(middle_x - reach_x, middle_y - reach_y), -long)
    leave = torch.minimum(torch.minimum(middle_x + reach_x, middle_y + reach_y), long)
    return leave.sub_(enter).clamp_(min=0)
