"""Targets of an anchor head as dense tensors, by MMDetection3D's methods: what plug-ins override and call.

Shapes: B frames, H and W size of the map, S sizes, R rotations, n anchors of a frame (or of one assigner), C numbers of
a box, P positive anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.models.dense_heads.base import HeadCfg
from raydet3d.models.task_modules.assigners import Max3DIoUAssigner
from raydet3d.models.task_modules.box_coders import DeltaXYZWLHRBBoxCoder
from raydet3d.models.task_modules.pseudo_sampler import PseudoSampler
from raydet3d.ops import limit_period
from raydet3d.structures import InstanceData
from raydet3d.structures.sample_types import SampleMeta

SingleTargets = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Labels, label weights, box targets, box weights, direction targets, direction weights, positives, negatives."""


class AnchorTrainMixin:
    """Targets of an anchor head."""

    num_classes: int
    box_code_size: int
    assign_per_class: bool
    dir_offset: float
    dir_limit_offset: float
    bbox_assigner: Max3DIoUAssigner | list[Max3DIoUAssigner]
    bbox_sampler: PseudoSampler
    bbox_coder: DeltaXYZWLHRBBoxCoder

    def anchor_target_3d(
        self,
        anchor_list: Sequence[Sequence[Tensor]],
        batch_gt_instances_3d: Sequence[InstanceData],
        batch_input_metas: Sequence[SampleMeta],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
        label_channels: int = 1,
        num_classes: int = 1,
        sampling: bool = True,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor], int, int]:
        """Compute the targets of a batch.

        Args:
            anchor_list: For each frame the anchors of each level.
            batch_gt_instances_3d: `bboxes_3d` and `labels_3d` of each frame.
            batch_input_metas: Meta information of each frame.
            batch_gt_instances_ignore: Ignored instances of each frame.
            label_channels: Passed on.
            num_classes: Label of the background.
            sampling: Passed on.

        Returns:
            Labels (B, n), label weights (B, n), box targets (B, n, C), box weights (B, n, C), direction targets (B, n)
            and direction weights (B, n) of each level; numbers of positive and negative anchors, at least 1 a frame.
        """
        ignored = batch_gt_instances_ignore or [None] * len(batch_input_metas)
        code = self.box_code_size
        sizes = [anchors.numel() // code for anchors in anchor_list[0]]
        targets = []
        for levels, truth, ignore, meta in zip(
            anchor_list, batch_gt_instances_3d, ignored, batch_input_metas, strict=True
        ):
            anchors = levels[0] if len(levels) == 1 else torch.cat([level.reshape(-1, code) for level in levels])
            targets.append(
                self.anchor_target_3d_single(
                    anchors,
                    truth,
                    ignore,
                    meta,
                    label_channels=label_channels,
                    num_classes=num_classes,
                    sampling=sampling,
                )
            )
        *dense, positive, negative = zip(*targets, strict=True)
        per_level = [list(torch.stack(column).split(sizes, dim=1)) for column in dense]
        num_pos = sum(max(len(one), 1) for one in positive)
        num_neg = sum(max(len(one), 1) for one in negative)
        return (*per_level, num_pos, num_neg)  # type: ignore[return-value]

    def anchor_target_3d_single(
        self,
        anchors: Tensor,
        gt_instance_3d: InstanceData,
        gt_instance_ignore: InstanceData | None,
        input_meta: SampleMeta,
        label_channels: int = 1,
        num_classes: int = 1,
        sampling: bool = True,
    ) -> SingleTargets:
        """Compute the targets of one frame.

        Args:
            anchors: (..., S, R, C) for one assigner per size, else (..., C).
            gt_instance_3d: `bboxes_3d` and `labels_3d`.
            gt_instance_ignore: Ignored instances.
            input_meta: Meta information.
            label_channels: Not used.
            num_classes: Label of the background.
            sampling: Passed on.

        Returns:
            See `SingleTargets`; all (n,) or (n, C) in the order of the anchors.
        """
        if not isinstance(self.bbox_assigner, list):
            return self.anchor_target_single_assigner(
                self.bbox_assigner, anchors, gt_instance_3d, gt_instance_ignore, input_meta, num_classes, sampling
            )
        if anchors.ndim < 4:
            raise InputError("train_cfg.assigner: a list of assigners needs anchor_generator.reshape_out=False")
        *_, sizes, rotations, code = anchors.shape
        cells = anchors.numel() // (sizes * rotations * code)
        targets = []
        for i, assigner in enumerate(self.bbox_assigner):
            truth = gt_instance_3d
            if self.assign_per_class:
                own = torch.as_tensor(truth.labels_3d) == i
                truth = InstanceData(bboxes_3d=truth.bboxes_3d[own], labels_3d=torch.as_tensor(truth.labels_3d)[own])
            targets.append(
                self.anchor_target_single_assigner(
                    assigner,
                    anchors[..., i, :, :].reshape(-1, code),
                    truth,
                    gt_instance_ignore,
                    input_meta,
                    num_classes,
                    sampling,
                )
            )
        *dense, positive, negative = zip(*targets, strict=True)
        merged = []
        for column in dense:  # of each size (cells * R, ...); in the order of the anchors (cells * S * R, ...)
            shaped = [one.reshape(cells, rotations, *one.shape[1:]) for one in column]
            merged.append(torch.stack(shaped, dim=1).flatten(0, 2))
        return (*merged, torch.cat(positive), torch.cat(negative))  # type: ignore[return-value]

    def anchor_target_single_assigner(
        self,
        bbox_assigner: Max3DIoUAssigner,
        anchors: Tensor,
        gt_instance_3d: InstanceData,
        gt_instance_ignore: InstanceData | None,
        input_meta: SampleMeta,
        num_classes: int = 1,
        sampling: bool = True,
    ) -> SingleTargets:
        """Assign the anchors of one assigner and encode the positive ones.

        Args:
            bbox_assigner: The assigner.
            anchors: (..., C).
            gt_instance_3d: `bboxes_3d` and `labels_3d`.
            gt_instance_ignore: Ignored instances.
            input_meta: Not used.
            num_classes: Label of the background.
            sampling: Not used; `bbox_sampler` decides.

        Returns:
            See `SingleTargets`.
        """
        anchors = anchors.reshape(-1, anchors.shape[-1])
        count, device = len(anchors), anchors.device
        labels = torch.full((count,), num_classes, dtype=torch.long, device=device)
        label_weights = anchors.new_zeros(count)
        bbox_targets, bbox_weights = torch.zeros_like(anchors), torch.zeros_like(anchors)
        dir_targets = torch.zeros(count, dtype=torch.long, device=device)
        dir_weights = anchors.new_zeros(count)
        boxes = gt_instance_3d.bboxes_3d
        boxes = (boxes if isinstance(boxes, Tensor) else boxes.tensor).to(device)
        box_labels = torch.as_tensor(gt_instance_3d.labels_3d, device=device).long()
        known = (box_labels >= 0) & (box_labels < num_classes)
        if not known.any():
            label_weights.fill_(1)
            return (labels, label_weights, bbox_targets, bbox_weights, dir_targets, dir_weights,
                    labels[:0], torch.arange(count, device=device))  # fmt: skip
        truth = InstanceData(bboxes_3d=boxes[known], labels_3d=box_labels[known])
        priors = InstanceData(priors=anchors)
        assigned = bbox_assigner.assign(priors, truth, gt_instance_ignore)
        sampled = self.bbox_sampler.sample(assigned, priors, truth)
        positive, negative = sampled.pos_inds, sampled.neg_inds
        if len(positive):
            bbox_targets[positive] = self.bbox_coder.encode(sampled.pos_priors, sampled.pos_gt_bboxes)
            bbox_weights[positive] = 1
            dir_targets[positive] = get_direction_target(
                sampled.pos_priors, bbox_targets[positive], self.dir_offset, self.dir_limit_offset, one_hot=False
            )
            dir_weights[positive] = 1
            labels[positive] = truth.labels_3d[sampled.pos_assigned_gt_inds]
            pos_weight = self._train_setting("pos_weight", -1)
            label_weights[positive] = pos_weight if pos_weight > 0 else 1.0
        label_weights[negative] = 1
        return labels, label_weights, bbox_targets, bbox_weights, dir_targets, dir_weights, positive, negative

    def _train_setting(self, key: str, default: float | None = None) -> Any:
        """Return a setting of `train_cfg`, or the default."""
        train_cfg: HeadCfg | None = getattr(self, "train_cfg", None)
        return default if train_cfg is None else train_cfg.get(key, default)


def get_direction_target(
    anchors: Tensor,
    reg_targets: Tensor,
    dir_offset: float = 0,
    dir_limit_offset: float = 0,
    num_bins: int = 2,
    one_hot: bool = True,
) -> Tensor:
    """Compute the direction bins of boxes.

    Args:
        anchors: (P, C).
        reg_targets: (P, C) encoded boxes; the yaw is that of the decoded box, as in the published checkpoints.
        dir_offset: Yaw at which the first bin begins; radians.
        dir_limit_offset: Offset of the period, as a share of it.
        num_bins: Number of bins of the circle.
        one_hot: Return one-hot vectors.

    Returns:
        (P,) bins, or (P, num_bins) with `one_hot`.
    """
    yaw = limit_period(reg_targets[..., 6] + anchors[..., 6] - dir_offset, dir_limit_offset, 2 * math.pi)
    bins = torch.floor(yaw / (2 * math.pi / num_bins)).long().clamp(0, num_bins - 1)
    return torch.nn.functional.one_hot(bins, num_bins).to(anchors.dtype) if one_hot else bins
