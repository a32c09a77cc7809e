"""`PseudoSampler`: the loss of all assigned anchors, without a choice among them, and its result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydet3d.models.task_modules.assigners import AssignResult
from raydet3d.registry import TASK_UTILS
from raydet3d.structures import InstanceData


@dataclass
class SamplingResult:
    """Anchors that take part in the loss, by MMDetection's names.

    Attributes:
        pos_inds: (P,) indices of positive anchors, ascending.
        neg_inds: (N,) indices of negative anchors, ascending.
        pos_priors: (P, C) positive anchors.
        neg_priors: (N, C) negative anchors.
        pos_assigned_gt_inds: (P,) indices of their ground-truth boxes.
        pos_gt_bboxes: (P, C) their ground-truth boxes.
        pos_gt_labels: (P,) classes of those.
        num_gts: Number of ground-truth boxes.
    """

    pos_inds: Tensor
    neg_inds: Tensor
    pos_priors: Tensor
    neg_priors: Tensor
    pos_assigned_gt_inds: Tensor
    pos_gt_bboxes: Tensor
    pos_gt_labels: Tensor | None
    num_gts: int


@TASK_UTILS.register_module()
class PseudoSampler:
    """Keeps every positive and negative anchor; with a focal loss there is nothing to sample.

    Args:
        context: Accepted for published configs.
    """

    def __init__(self, context: object = None) -> None:
        self.context = context

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData
    ) -> SamplingResult:
        """List the positive and negative anchors of an assignment.

        Args:
            assign_result: Result of the assigner.
            pred_instances: `priors`, the (A, C) anchors.
            gt_instances: `bboxes_3d`, the (K, C) ground-truth boxes.
        """
        priors, gt_bboxes = pred_instances.priors, gt_instances.bboxes_3d
        gt_bboxes = gt_bboxes if isinstance(gt_bboxes, Tensor) else gt_bboxes.tensor.to(priors)
        positive = torch.nonzero(assign_result.gt_inds > 0).squeeze(1)
        negative = torch.nonzero(assign_result.gt_inds == 0).squeeze(1)
        assigned = assign_result.gt_inds[positive] - 1
        labels = assign_result.labels
        return SamplingResult(
            pos_inds=positive,
            neg_inds=negative,
            pos_priors=priors[positive],
            neg_priors=priors[negative],
            pos_assigned_gt_inds=assigned,
            pos_gt_bboxes=gt_bboxes[assigned].view(-1, priors.shape[-1]),
            pos_gt_labels=None if labels is None else labels[positive],
            num_gts=assign_result.num_gts,
        )
