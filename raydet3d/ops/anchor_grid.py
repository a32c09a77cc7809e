"""IoU of rectangles with the anchors of a regular grid, computed in a window of cells around each rectangle.

The IoU of an axis-aligned rectangle with all anchors of a grid is made of overlaps along x and along y, and only a
window of cells can overlap it at all. This takes a fraction of a millisecond where comparing every anchor with every
rectangle takes tens of them, and gives the same bits.

Shapes: K rectangles, H and W size of the map, R rotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydet3d.ops.iou import nearest_bev


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of one size as axis-aligned rectangles whose edges depend on the column or the row alone.

    Attributes:
        x1: (R, W) left edges.
        x2: (R, W) right edges.
        y1: (R, H) lower edges.
        y2: (R, H) upper edges.
    """

    x1: Tensor
    x2: Tensor
    y1: Tensor
    y2: Tensor

    @classmethod
    def from_anchors(cls, anchors: Tensor) -> AnchorGrid | None:
        """Read the grid from (H, W, R, 7+) anchors; None if they do not form one."""
        height, width, rotations = anchors.shape[:3]
        edges = nearest_bev(anchors.flatten(0, 2)).view(height, width, rotations, 4)
        x1, y1, x2, y2 = edges.unbind(-1)
        by_column, by_row = (x1, x2), (y1, y2)
        same = all(bool((e == e[:1]).all()) for e in by_column) and all(bool((e == e[:, :1]).all()) for e in by_row)
        rising = all(bool((e[0].diff(dim=0) > 0).all()) for e in by_column) and all(
            bool((e[:, 0].diff(dim=0) > 0).all()) for e in by_row
        )
        if not (same and rising):
            return None
        return cls(*(e[0].T.contiguous() for e in by_column), *(e[:, 0].T.contiguous() for e in by_row))

    @property
    def num_anchors(self) -> int:
        """H * W * R."""
        return self.x1.numel() * self.y1.shape[1]

    def iou(self, rectangles: Tensor) -> tuple[Tensor, Tensor]:
        """Compare rectangles with the anchors around them.

        Args:
            rectangles: (K, 4) x1, y1, x2, y2.

        Returns:
            IoU and index (y * W + x) * R + r of the anchors in a window around each rectangle, both (K, window); the
            window has one size for all, and the anchors outside have IoU 0. Where the IoU is 0 an index may be
            meaningless.
        """
        x1, y1, x2, y2 = rectangles.unbind(1)
        x, width, anchor_width = _overlap_1d(self.x1, self.x2, x1, x2)  # (K, R, window)
        y, height, anchor_height = _overlap_1d(self.y1, self.y2, y1, y2)
        shared = width[:, :, None] * height[..., None]  # (K, R, window y, window x)
        anchor_area = anchor_width[:, :, None] * anchor_height[..., None]
        area = ((x2 - x1) * (y2 - y1))[:, None, None, None]
        # The operations and the lower bound of `aligned_iou`, in its order, so that ties between anchors are the same.
        iou = shared / (area + anchor_area - shared).clamp_(min=1e-6)
        rotations, columns = self.x1.shape
        rotation = torch.arange(rotations, device=x.device)[:, None, None]
        index = (y[..., None] * columns + x[:, :, None]) * rotations + rotation
        return iou.flatten(1), index.flatten(1)


def _overlap_1d(low: Tensor, high: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap K intervals with the anchors' along one axis.

    Args:
        low: (R, W) lower edges of the anchors.
        high: (R, W) upper edges of the anchors.
        begin: (K,) lower ends of the intervals.
        end: (K,) upper ends of the intervals.

    Returns:
        Columns in each window, overlap there, and size of the anchors; each (K, R, window).
    """
    rotations, count = low.shape
    # From the first anchor whose upper edge is beyond `begin` to the first whose lower edge is at `end`.
    begins, ends = begin.expand(rotations, -1).contiguous(), end.expand(rotations, -1).contiguous()
    first = torch.searchsorted(high, begins, right=True).T  # (K, R)
    last = torch.searchsorted(low, ends).T
    window = max(1, int((last - first).max()))
    column = first[..., None] + torch.arange(window, device=low.device)
    inside = column < last[..., None]
    column = column.clamp(max=count - 1)
    row = torch.arange(rotations, device=low.device)[:, None]
    low, high = low[row, column], high[row, column]
    shared = torch.minimum(high, end[:, None, None]) - torch.maximum(low, begin[:, None, None])
    return column, shared.clamp_(min=0).mul_(inside), high - low
