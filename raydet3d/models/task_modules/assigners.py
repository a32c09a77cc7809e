"""Assigners: which anchors are positive (and for which ground-truth box), negative, and ignored.

Shapes: K ground-truth boxes, A anchors, P pairs of a box and an anchor, C numbers of a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from raydet3d.config import ConfigValue
from raydet3d.errors import InputError
from raydet3d.models.task_modules.iou_calculators import BboxOverlapsNearest3D, IoUCalculator
from raydet3d.ops import AnchorGrid, nearest_bev
from raydet3d.registry import TASK_UTILS
from raydet3d.structures import InstanceData


@dataclass
class AssignResult:
    """Assignment of every anchor, by MMDetection's names.

    Attributes:
        num_gts: K.
        gt_inds: (A,) 0 for a negative, -1 for an ignored anchor, else 1 + the index of the ground-truth box.
        max_overlaps: (A,) best overlap of each anchor; None if it was not computed.
        labels: (A,) class of the assigned box, -1 where there is none; None without labels.
    """

    num_gts: int
    gt_inds: Tensor
    max_overlaps: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class SparseAssignResult:
    """Assignment as lists; anchors in neither list are negative.

    Attributes:
        positive: (N,) indices of the positive anchors, ascending.
        gt_inds: (N,) index of the ground-truth box of each.
        ignored: (M,) indices of the ignored anchors.
    """

    positive: Tensor
    gt_inds: Tensor
    ignored: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> SparseAssignResult:
        """Return the result for no ground-truth boxes."""
        none = torch.empty(0, dtype=torch.long, device=device)
        return cls(none, none, none)


class BaseAssigner:
    """Base class of assigners; subclasses define `assign`."""

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: object,
    ) -> AssignResult:
        """Assign the priors of one frame to its ground-truth boxes."""
        raise NotImplementedError


@TASK_UTILS.register_module()
class Max3DIoUAssigner(BaseAssigner):
    """Assigns anchors by IoU.

    An anchor whose best IoU is below `neg_iou_thr` is negative; one whose best is at least `pos_iou_thr` is positive
    for the box it overlaps most (the first of several that tie); between them it is ignored. Then each box whose best
    IoU is at least `min_pos_iou` takes every anchor that has this IoU with it, whatever was assigned before; of several
    such boxes the last one wins.

    Args:
        pos_iou_thr: See above.
        neg_iou_thr: See above.
        min_pos_iou: See above.
        gt_max_assign_all: Only True is supported: a box takes all anchors that tie.
        ignore_iof_thr: Only -1 is supported (no regions to ignore).
        match_low_quality: False leaves out the last step.
        iou_calculator: Overlap of boxes and anchors.
    """

    def __init__(
        self,
        pos_iou_thr: float,
        neg_iou_thr: float,
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        match_low_quality: bool = True,
        iou_calculator: Mapping[str, ConfigValue] = {"type": "BboxOverlapsNearest3D"},
    ) -> None:
        name = type(self).__name__
        if not gt_max_assign_all:
            raise InputError(f"{name}: gt_max_assign_all=False is not supported; leave it out")
        if ignore_iof_thr > 0:
            raise InputError(f"{name}: ignore_iof_thr={ignore_iof_thr} is not supported for 3D boxes; use -1")
        if not 0 < neg_iou_thr <= pos_iou_thr:
            raise InputError(
                f"{name}: 0 < neg_iou_thr <= pos_iou_thr is required, got neg_iou_thr={neg_iou_thr} and "
                f"pos_iou_thr={pos_iou_thr}"
            )
        self.pos_iou_thr = pos_iou_thr
        self.neg_iou_thr = neg_iou_thr
        self.min_pos_iou = min_pos_iou
        self.match_low_quality = match_low_quality
        self.iou_calculator: IoUCalculator = TASK_UTILS.build(iou_calculator)

    @override
    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: Any,
    ) -> AssignResult:
        """Assign the anchors of one frame.

        Args:
            pred_instances: `priors`, the (A, C) anchors.
            gt_instances: `bboxes_3d`, (K, C) boxes or their tensor, and `labels_3d`.
            gt_instances_ignore: Not used.
            **kwargs: Not used.
        """
        anchors = pred_instances.priors
        boxes = gt_instances.bboxes_3d
        boxes = boxes if isinstance(boxes, Tensor) else boxes.tensor.to(anchors)
        labels = torch.as_tensor(gt_instances.labels_3d, device=anchors.device)
        result = self.assign_sparse(anchors, boxes)
        gt_inds = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
        gt_inds[result.positive] = result.gt_inds + 1
        gt_inds[result.ignored] = -1
        assigned_labels = torch.full_like(gt_inds, -1)
        assigned_labels[result.positive] = labels[result.gt_inds].long()
        return AssignResult(len(boxes), gt_inds, labels=assigned_labels)

    def assign_sparse(self, anchors: Tensor, boxes: Tensor) -> SparseAssignResult:
        """Assign the (A, C) anchors of one frame with (K, C) boxes, by comparing all with all."""
        if not len(boxes) or not len(anchors):
            return SparseAssignResult.empty(boxes.device)
        iou = self.iou_calculator(boxes, anchors)  # (K, A)
        best = iou.amax(dim=1)
        box, anchor = (iou >= self._min_iou).nonzero().unbind(1)
        return self._assign_pairs(box, anchor, iou[box, anchor], best)

    @property
    def supports_grid(self) -> bool:
        """Whether `assign_grid` gives the result of `assign_sparse`."""
        takes_all = self.match_low_quality and self.min_pos_iou <= 0  # anchors without overlap may be positive
        return type(self.iou_calculator) is BboxOverlapsNearest3D and not takes_all

    def assign_grid(self, grid: AnchorGrid, boxes: Tensor, frames: Tensor) -> SparseAssignResult:
        """Assign the anchors of a grid in all frames of a batch, with the bits of `assign_sparse`.

        Args:
            grid: The anchors, the same in every frame.
            boxes: (K, C) boxes of all frames.
            frames: (K,) frame of each.

        Returns:
            The assignment; an anchor's index is frame * H * W * R + (y * W + x) * R + r.
        """
        if not len(boxes):
            return SparseAssignResult.empty(boxes.device)
        iou, anchor = grid.iou(nearest_bev(boxes))  # (K, window)
        best = iou.amax(dim=1)
        box, column = (iou >= self._min_iou).nonzero().unbind(1)
        return self._assign_pairs(box, anchor[box, column] + frames[box] * grid.num_anchors, iou[box, column], best)

    @property
    def _min_iou(self) -> float:
        """IoU below which a pair of a box and an anchor has no influence."""
        return min(self.neg_iou_thr, self.min_pos_iou) if self.match_low_quality else self.neg_iou_thr

    def _assign_pairs(self, box: Tensor, anchor: Tensor, iou: Tensor, best_of_box: Tensor) -> SparseAssignResult:
        """Assign from the (P,) pairs whose IoU has influence, and the best IoU (K,) of each box."""
        anchors, slot = torch.unique(anchor, return_inverse=True)
        best = iou.new_zeros(len(anchors)).scatter_reduce_(0, slot, iou, "amax")
        none = len(best_of_box)
        # The first box among those that an anchor overlaps most.
        first = torch.where(iou == best[slot], box, none)
        assigned = box.new_full((len(anchors),), none).scatter_reduce_(0, slot, first, "amin")
        positive = best >= self.pos_iou_thr
        if self.match_low_quality:
            taken = (iou == best_of_box[box]) & (iou >= self.min_pos_iou)
            last = box.new_full((len(anchors),), -1).scatter_reduce_(0, slot, torch.where(taken, box, -1), "amax")
            assigned = torch.where(last >= 0, last, assigned)
            positive |= last >= 0
        ignored = ~positive & (best >= self.neg_iou_thr)
        return SparseAssignResult(anchors[positive], assigned[positive], anchors[ignored])
