"""`FreeAnchor3DHead`: an anchor head that learns which anchors find which object, instead of assigning them by IoU.

Shapes: B batch, L levels, n anchors of a frame, N objects of a frame, K anchors of a bag, C numbers of a box.
Source: FreeAnchor (Zhang et al. 2019), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from raydet3d.models.dense_heads.anchor3d_head import Anchor3DHead
from raydet3d.models.dense_heads.anchor_targets import get_direction_target
from raydet3d.models.dense_heads.base import Losses
from raydet3d.models.module import InitCfg
from raydet3d.ops import aligned_iou, map_to_rows, nearest_bev, upcast_half
from raydet3d.registry import MODELS
from raydet3d.structures import InstanceData
from raydet3d.structures.sample_types import SampleMeta


@MODELS.register_module()
class FreeAnchor3DHead(Anchor3DHead):
    """Anchor head trained with bags of anchors (FreeAnchor); it predicts as `Anchor3DHead` does.

    Args:
        pre_anchor_topk: K, anchors in the bag of an object: those with the highest IoU.
        bbox_thr: IoU at which the probability that an anchor finds an object begins to rise from 0.
        gamma: Focusing parameter of the negative loss.
        alpha: Weight of the positive loss; the negative loss has 1 - alpha.
        init_cfg: As for `Anchor3DHead`.
        **kwargs: Arguments of `Anchor3DHead`.
    """

    def __init__(
        self,
        pre_anchor_topk: int = 50,
        bbox_thr: float = 0.6,
        gamma: float = 2.0,
        alpha: float = 0.5,
        init_cfg: InitCfg = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.pre_anchor_topk = pre_anchor_topk
        self.bbox_thr = bbox_thr
        self.gamma = gamma
        self.alpha = alpha

    @override
    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        dir_cls_preds: Sequence[Tensor | None],
        batch_gt_instances_3d: Sequence[InstanceData],
        batch_input_metas: Sequence[SampleMeta],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> Losses:
        """Compute the losses of a batch from the outputs of `forward`, whose shapes `Anchor3DHead` describes.

        Returns:
            `positive_bag_loss` (equation 3, mean over objects) and `negative_bag_loss` (equation 4).
        """
        self._check_trainable()
        sizes = [tuple(scores.shape[-2:]) for scores in cls_scores]
        anchors_of = self.get_anchors(sizes, batch_input_metas, device=cls_scores[0].device)
        probabilities = self._rows(cls_scores, self.num_classes).sigmoid()  # (B, n, num_classes)
        deltas = self._rows(bbox_preds, self.box_code_size)  # (B, n, C)
        directions = [one for one in dir_cls_preds if one is not None]
        bins = self._rows(directions, 2) if directions else None  # (B, n, 2)
        positive, found = [], []
        for frame, (levels, truth) in enumerate(zip(anchors_of, batch_gt_instances_3d, strict=True)):
            anchors = torch.cat([level.reshape(-1, self.box_code_size) for level in levels])
            boxes, labels = truth.bboxes_3d.tensor.to(anchors.device), truth.labels_3d.to(anchors.device)
            with torch.no_grad():
                found.append(self._found_probability(anchors, deltas[frame], boxes, labels))
            positive.append(
                self._bag_loss(
                    anchors,
                    probabilities[frame],
                    deltas[frame],
                    bins[frame] if bins is not None else None,
                    boxes,
                    labels,
                )
            )
        num_objects = sum(map(len, positive))
        negative = self.negative_bag_loss(probabilities, torch.stack(found))
        return {
            "positive_bag_loss": torch.cat(positive).sum() / max(num_objects, 1),
            "negative_bag_loss": negative.sum() / max(num_objects * self.pre_anchor_topk, 1),
        }

    def _rows(self, maps: Sequence[Tensor], numbers: int) -> Tensor:
        """Flatten and join the maps of all levels: L times (B, A * numbers, H, W) to (B, n, numbers) in float32."""
        return torch.cat([upcast_half(map_to_rows(one).reshape(len(one), -1, numbers)) for one in maps], dim=1)

    def _found_probability(self, anchors: Tensor, deltas: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Compute the probability that an anchor's predicted box finds some object of a class (section 3.3).

        Args:
            anchors: (n, C).
            deltas: (n, C) encoded predictions.
            boxes: (N, C).
            labels: (N,).

        Returns:
            (n, num_classes).
        """
        iou = aligned_iou(nearest_bev(boxes), nearest_bev(self.bbox_coder.decode(anchors, deltas)))  # (N, n)
        top = iou.amax(dim=1, keepdim=True).clamp(min=self.bbox_thr + 1e-6)
        probability = ((iou - self.bbox_thr) / (top - self.bbox_thr)).clamp(0, 1)
        of_class = [probability[labels == label] for label in range(self.num_classes)]
        nothing = probability.new_zeros(len(anchors))
        return torch.stack([one.amax(dim=0) if len(one) else nothing for one in of_class], dim=1)

    def _bag_loss(
        self,
        anchors: Tensor,
        probabilities: Tensor,
        deltas: Tensor,
        bins: Tensor | None,
        boxes: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Compute the positive loss of each object of a frame.

        Args:
            anchors: (n, C).
            probabilities: (n, num_classes).
            deltas: (n, C) encoded predictions.
            bins: (n, 2) logits of the direction, or None.
            boxes: (N, C).
            labels: (N,).

        Returns:
            (N,).
        """
        overlap = aligned_iou(nearest_bev(boxes), nearest_bev(anchors))
        bag = overlap.topk(min(self.pre_anchor_topk, len(anchors)), dim=1, sorted=False).indices  # (N, K)
        class_probability = probabilities[bag].gather(2, labels[:, None, None].expand(*bag.shape, 1)).squeeze(2)
        chosen = anchors[bag]  # (N, K, C)
        targets = self.bbox_coder.encode(chosen, boxes[:, None].expand_as(chosen))
        loss = torch.zeros_like(class_probability)
        if bins is not None:
            bin_targets = get_direction_target(chosen, targets, self.dir_offset, self.dir_limit_offset, one_hot=False)
            loss = self.loss_dir(bins[bag].flatten(0, 1), bin_targets.flatten(), reduction_override="none").view_as(
                loss
            )
        predicted = deltas[bag]
        if self.diff_rad_by_sin:
            predicted, targets = self.add_sin_difference(predicted, targets)
        code_weight = self._train_setting("code_weight")
        weight = predicted.new_tensor(code_weight).expand_as(predicted) if code_weight else None
        loss = loss + self.loss_bbox(predicted, targets, weight, reduction_override="none").sum(-1)
        return self.positive_bag_loss(class_probability, torch.exp(-loss))

    def positive_bag_loss(self, matched_cls_prob: Tensor, matched_box_prob: Tensor) -> Tensor:
        """Compute the loss of each bag from the mean-max of its probabilities (equation 7).

        Args:
            matched_cls_prob: (N, K) probability of the object's class.
            matched_box_prob: (N, K) probability of its box.

        Returns:
            (N,).
        """
        matched = matched_cls_prob * matched_box_prob
        weight = 1 / (1 - matched).clamp(min=1e-12)
        probability = (weight / weight.sum(dim=1, keepdim=True) * matched).sum(dim=1).clamp(0, 1)
        return self.alpha * _binary_cross_entropy(probability, 1.0)

    def negative_bag_loss(self, cls_prob: Tensor, box_prob: Tensor) -> Tensor:
        """Compute the loss of every anchor and class as background, by the focal loss.

        Args:
            cls_prob: (..., num_classes) class probabilities.
            box_prob: (..., num_classes) probability that the anchor finds an object of the class.

        Returns:
            (..., num_classes).
        """
        probability = (cls_prob * (1 - box_prob)).clamp(0, 1)
        return (1 - self.alpha) * probability**self.gamma * _binary_cross_entropy(probability, 0.0)


def _binary_cross_entropy(probability: Tensor, target: float) -> Tensor:
    """Compare probabilities with one target, in float32: under autocast torch refuses to."""
    with torch.autocast(probability.device.type, enabled=False):
        probability = probability.float()
        return F.binary_cross_entropy(probability, torch.full_like(probability, target), reduction="none")
