"""Targets of an anchor head as lists of positive and ignored anchors, for one map.

The numbers of `AnchorTrainMixin` in a fraction of its time: nothing of the size of all anchors is made but the anchors,
once per size of map.

Shapes: B frames, H and W size of the map, S sizes, R rotations, A = S * R anchors of a cell, K boxes, C numbers of a
box, P positive and M ignored anchors. An anchor's index in a batch is ((b * H + y) * W + x) * A + s * R + r.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.models.dense_heads.anchor_targets import get_direction_target
from raydet3d.models.task_modules.anchor_generators import Anchor3DRangeGenerator
from raydet3d.models.task_modules.assigners import Max3DIoUAssigner, SparseAssignResult
from raydet3d.models.task_modules.box_coders import DeltaXYZWLHRBBoxCoder
from raydet3d.ops import AnchorGrid
from raydet3d.structures import Det3DDataSample


@dataclass(frozen=True)
class SparseAnchorTargets:
    """Targets of a batch; anchors in neither list are negative.

    Attributes:
        positive: (P,) positive anchors.
        labels: (P,) their classes.
        bbox_targets: (P, C) their encoded boxes.
        dir_targets: (P,) their direction bins.
        ignored: (M,) ignored anchors.
        avg_factor: Number of positive anchors, at least 1 a frame.
    """

    positive: Tensor
    labels: Tensor
    bbox_targets: Tensor
    dir_targets: Tensor
    ignored: Tensor
    avg_factor: Tensor


@dataclass(frozen=True)
class _AnchorGroup:
    """Anchors that one assigner works on.

    Attributes:
        anchors: (H, W, n, C).
        grid: The same as a grid, if they form one.
        offset: Index of the first among the A of a cell.
    """

    anchors: Tensor
    grid: AnchorGrid | None
    offset: int


class AnchorCache:
    """Anchors of a head, kept for each size of map and device."""

    def __init__(self) -> None:
        self._generator: Anchor3DRangeGenerator | None = None
        self._rows: dict[tuple[int, int, torch.device], Tensor] = {}
        self._groups: dict[tuple[int, int, torch.device, bool], list[_AnchorGroup]] = {}

    def rows(self, generator: Anchor3DRangeGenerator, size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the (H * W * A, C) anchors of a map of (H, W) cells."""
        if generator is not self._generator:
            self._generator = generator
            self._rows.clear()
            self._groups.clear()
        key = (*size, device)
        if key not in self._rows:
            self._rows[key] = generator.grid_anchors([size], device=device)[0].reshape(-1, generator.box_code_size)
        return self._rows[key]

    def groups(
        self, generator: Anchor3DRangeGenerator, size: tuple[int, int], device: torch.device, per_size: bool
    ) -> list[_AnchorGroup]:
        """Return the anchors of each assigner: one group per size, or one for all."""
        rows = self.rows(generator, size, device)
        key = (*size, device, per_size)
        if key not in self._groups:
            rotations = len(generator.rotations)
            cells = rows.view(*size, -1, rows.shape[1])  # (H, W, A, C)
            parts = cells.split(rotations if per_size else cells.shape[2], dim=2)
            self._groups[key] = [
                _AnchorGroup(part, AnchorGrid.from_anchors(part), i * rotations) for i, part in enumerate(parts)
            ]
        return self._groups[key]


def sparse_anchor_targets(
    anchors: Tensor,
    groups: Sequence[_AnchorGroup],
    assigners: Sequence[Max3DIoUAssigner],
    coder: DeltaXYZWLHRBBoxCoder,
    data_samples: Sequence[Det3DDataSample],
    *,
    num_classes: int,
    per_class: bool,
    dir_offset: float,
    dir_limit_offset: float,
) -> SparseAnchorTargets:
    """Compute the targets of a batch.

    Args:
        anchors: (H * W * A, C) of a frame.
        groups: Anchors of each assigner.
        assigners: One per group.
        coder: Box coder.
        data_samples: B samples with `gt_instances_3d`.
        num_classes: Boxes of other labels are left out.
        per_class: The i-th group is assigned to boxes of the i-th class only.
        dir_offset: Yaw at which the first direction bin begins; radians.
        dir_limit_offset: Offset of the period, as a share of it.
    """
    boxes, labels, frames = _ground_truth(data_samples, anchors.device, coder.code_size, num_classes)
    num_base = anchors.shape[0] // (groups[0].anchors.shape[0] * groups[0].anchors.shape[1])
    parts = []
    for i, (assigner, group) in enumerate(zip(assigners, groups, strict=True)):
        own = (labels == i).nonzero().squeeze(1) if per_class else torch.arange(len(boxes), device=boxes.device)
        parts.append(_assign(assigner, group, num_base, own, boxes[own], frames[own]))
    positive = torch.cat([part.positive for part in parts])
    gt_inds = torch.cat([part.gt_inds for part in parts])
    priors = anchors.index_select(0, positive % len(anchors))  # (P, C)
    bbox_targets = coder.encode(priors, boxes.index_select(0, gt_inds))
    counts = torch.bincount(positive // len(anchors), minlength=len(data_samples))
    return SparseAnchorTargets(
        positive=positive,
        labels=labels.index_select(0, gt_inds),
        bbox_targets=bbox_targets,
        dir_targets=get_direction_target(priors, bbox_targets, dir_offset, dir_limit_offset, one_hot=False),
        ignored=torch.cat([part.ignored for part in parts]),
        avg_factor=counts.clamp(min=1).sum(),
    )


def _ground_truth(
    data_samples: Sequence[Det3DDataSample], device: torch.device, code_size: int, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (K, C), labels (K,) and frames (K,) of the batch; boxes of other labels are left out."""
    boxes, labels, frames = [], [], []
    for frame, sample in enumerate(data_samples):
        truth = sample.gt_instances_3d
        rows = truth.bboxes_3d.tensor.to(device)
        if len(rows) and rows.shape[1] != code_size:
            raise InputError(
                f"Anchor3DHead: boxes have {rows.shape[1]} numbers, but bbox_coder.code_size is {code_size}"
            )
        boxes.append(rows.reshape(-1, code_size))
        labels.append(torch.as_tensor(truth.labels_3d, device=device).long())
        frames.append(torch.full((len(rows),), frame, device=device))
    box, label, frame_of = torch.cat(boxes), torch.cat(labels), torch.cat(frames)
    known = ((label >= 0) & (label < num_classes)).nonzero().squeeze(1)
    return box[known], label[known], frame_of[known]


def _assign(
    assigner: Max3DIoUAssigner, group: _AnchorGroup, num_base: int, own: Tensor, boxes: Tensor, frames: Tensor
) -> SparseAssignResult:
    """Assign the anchors of one group; the result has indices of anchors and boxes in the batch.

    Args:
        assigner: The assigner.
        group: Its anchors.
        num_base: A.
        own: (k,) indices of the boxes in the batch.
        boxes: (k, C) those boxes.
        frames: (k,) their frames.
    """
    if group.grid is not None and assigner.supports_grid:
        results = [assigner.assign_grid(group.grid, boxes, frames)]
        begins, owners = [0], [own]
    else:
        rows = group.anchors.flatten(0, 2)
        present = frames.unique().tolist()
        owners = [own[frames == frame] for frame in present]
        begins = [frame * len(rows) for frame in present]
        results = [assigner.assign_sparse(rows, boxes[frames == frame]) for frame in present]
    if not results:
        return SparseAssignResult.empty(boxes.device)
    per_cell = group.anchors.shape[2]

    def in_batch(parts: list[Tensor]) -> Tensor:
        index = torch.cat([part + begin for part, begin in zip(parts, begins, strict=True)])
        cell = index // per_cell
        return cell * num_base + group.offset + (index - cell * per_cell)

    return SparseAssignResult(
        positive=in_batch([part.positive for part in results]),
        gt_inds=torch.cat([owner[part.gt_inds] for owner, part in zip(owners, results, strict=True)]),
        ignored=in_batch([part.ignored for part in results]),
    )
