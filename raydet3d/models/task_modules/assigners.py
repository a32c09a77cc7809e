"""Assignment: which anchors are to find which object, which are background, and which do not count.

Anchors of one kind stand on a regular grid, so the overlap of an upright rectangle with all of them is a product of
overlaps along x and along y, and only a window of cells around each object can overlap it at all. That is what makes
this take a fraction of a millisecond where a table of all anchors against all objects takes tens of them; the numbers
are the same to the last bit.

Legend: K objects · H, W bird's-eye grid · R rotations · A anchors · P pairs of an object and an anchor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.ops import AnchorGrid, aligned_iou, nearest_bev
from raydet3d.registry import TASK_UTILS


class IoUCalculator(Protocol):
    """Overlap of every box with every other."""

    def __call__(self, boxes1: Tensor, boxes2: Tensor, /) -> Tensor:
        """(N, 7+) and (M, 7+) boxes to (N, M) overlaps."""


@TASK_UTILS.register_module()
class BboxOverlapsNearest3D:
    """Bird's-eye-view IoU of boxes after each was turned to the nearest axis.

    Args:
        coordinate: Frame of the boxes; only "lidar" and "depth" (z up) exist.
    """

    def __init__(self, coordinate: str = "lidar") -> None:
        if coordinate not in ("lidar", "depth"):
            raise InputError(f"BboxOverlapsNearest3D: coordinate is 'lidar' or 'depth', got {coordinate!r}")
        self.coordinate = coordinate

    def __call__(self, boxes1: Tensor, boxes2: Tensor, mode: str = "iou") -> Tensor:
        """(N, 7+) and (M, 7+) boxes to (N, M) overlaps."""
        return aligned_iou(nearest_bev(boxes1), nearest_bev(boxes2), mode=mode)


@TASK_UTILS.register_module()
class PseudoSampler:
    """Takes every anchor that was assigned. Named by configs; there is nothing to choose with a focal loss.

    Args:
        context: Accepted as published configs may carry it.
    """

    def __init__(self, context: Any = None) -> None:
        self.context = context


@dataclass(frozen=True)
class Assigned:
    """What an assigner decided; anchors that are in neither list are background.

    Attributes:
        positive: (N,) indices of the anchors that are to find an object, in rising order.
        objects: (N,) which object each is to find.
        ignored: (M,) indices of the anchors that do not count.
    """

    positive: Tensor
    objects: Tensor
    ignored: Tensor


@TASK_UTILS.register_module()
class Max3DIoUAssigner:
    """Assigns by overlap.

    An anchor whose best overlap is below `neg_iou_thr` is background, one whose best is at least `pos_iou_thr` finds
    the object it overlaps best (the first, where several tie); between them it does not count. After that each object
    whose best overlap is at least `min_pos_iou` takes **every** anchor that overlaps it that much, whatever was said
    of the anchor before; of several such objects the last one wins.

    Args:
        pos_iou_thr: See above.
        neg_iou_thr: See above.
        min_pos_iou: See above.
        gt_max_assign_all: Only True exists: all anchors that tie for an object's best overlap are taken.
        ignore_iof_thr: Only -1 exists (no regions to ignore).
        match_low_quality: False leaves out the last step.
        iou_calculator: What overlap is.
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float,
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        match_low_quality: bool = True,
        iou_calculator: Mapping[str, Any] = {"type": "BboxOverlapsNearest3D"},
    ) -> None:
        name = type(self).__name__
        if not gt_max_assign_all:
            raise InputError(f"{name}: gt_max_assign_all=False does not exist; leave it out")
        if ignore_iof_thr > 0:
            raise InputError(f"{name}: ignore_iof_thr={ignore_iof_thr} does not exist for 3D boxes; -1 does")
        if not 0 < neg_iou_thr <= pos_iou_thr:
            raise InputError(
                f"{name}: 0 < neg_iou_thr <= pos_iou_thr is wanted, got neg_iou_thr={neg_iou_thr} and "
                f"pos_iou_thr={pos_iou_thr}"
            )
        self.pos_iou_thr = pos_iou_thr
        self.neg_iou_thr = neg_iou_thr
        self.min_pos_iou = min_pos_iou
        self.match_low_quality = match_low_quality
        self.iou_calculator: IoUCalculator = TASK_UTILS.build(iou_calculator)

    @property
    def can_use_grid(self) -> bool:
        """Whether `assign_grid` gives the same as `assign`."""
        takes_all = self.match_low_quality and self.min_pos_iou <= 0  # then anchors without overlap can be positive
        return type(self.iou_calculator) is BboxOverlapsNearest3D and not takes_all

    def assign(self, anchors: Tensor, boxes: Tensor) -> Assigned:
        """Assign any anchors of one frame, by comparing all with all.

        Args:
            anchors: (A, 7+).
            boxes: (K, 7+) the frame's objects.
        """
        if not len(boxes) or not len(anchors):
            return _nothing(boxes.device)
        iou = self.iou_calculator(boxes, anchors)  # (K, A)
        best = iou.amax(dim=1)
        box, anchor = (iou >= self._lowest).nonzero().unbind(1)
        return self._decide(box, anchor, iou[box, anchor], best)

    def assign_grid(self, grid: AnchorGrid, boxes: Tensor, frames: Tensor) -> Assigned:
        """Assign the anchors of a grid, for several frames at once.

        Args:
            grid: The anchors, the same in every frame.
            boxes: (K, 7+) objects of all frames.
            frames: (K,) which frame each is in.

        Returns:
            The decision; an anchor's index is frame * H * W * R + (y * W + x) * R + r.
        """
        if not len(boxes):
            return _nothing(boxes.device)
        iou, anchor = grid.iou(nearest_bev(boxes))  # (K, window)
        best = iou.amax(dim=1)
        box, place = (iou >= self._lowest).nonzero().unbind(1)
        return self._decide(box, anchor[box, place] + frames[box] * grid.num_anchors, iou[box, place], best)

    @property
    def _lowest(self) -> float:
        """Overlap below which a pair of an object and an anchor decides nothing."""
        return min(self.neg_iou_thr, self.min_pos_iou) if self.match_low_quality else self.neg_iou_thr

    def _decide(self, box: Tensor, anchor: Tensor, iou: Tensor, best_of_box: Tensor) -> Assigned:
        """Decide from the (P,) pairs that overlap enough to matter, and each object's best overlap (K,)."""
        anchors, slot = torch.unique(anchor, return_inverse=True)
        best = iou.new_zeros(len(anchors)).scatter_reduce_(0, slot, iou, "amax")
        none = len(best_of_box)
        # The first object among those that an anchor overlaps best.
        first = torch.where(iou == best[slot], box, none)
        objects = box.new_full((len(anchors),), none).scatter_reduce_(0, slot, first, "amin")
        positive = best >= self.pos_iou_thr
        if self.match_low_quality:
            claims = (iou == best_of_box[box]) & (iou >= self.min_pos_iou)
            last = box.new_full((len(anchors),), -1).scatter_reduce_(0, slot, torch.where(claims, box, -1), "amax")
            objects = torch.where(last >= 0, last, objects)
            positive |= last >= 0
        ignored = ~positive & (best >= self.neg_iou_thr)
        return Assigned(anchors[positive], objects[positive], anchors[ignored])


def _nothing(device: torch.device) -> Assigned:
    empty = torch.empty(0, dtype=torch.long, device=device)
    return Assigned(empty, empty, empty)
