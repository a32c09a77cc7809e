"""`Anchor3DHead`: class, box and direction of every anchor; its targets, its losses, and the boxes it finds.

Few anchors find an object, so boxes and directions are computed only where they are asked for: at the anchors with an
object while training, at the best-scored ones while predicting. Both are rows of the same 1x1 convolutions, and the
same numbers as from whole maps.

Legend: B batch · H, W bird's-eye grid · S sizes · R rotations · A = S * R anchors of a cell · C classes · K objects ·
D numbers of a box · N anchors with an object. An anchor's number in a batch is ((b * H + y) * W + x) * A + s * R + r.
Source: SECOND (Yan et al. 2018), sections 3.2 and 3.3; VoxelNet's loss with the sine of the angle's error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models.dense_heads.anchor_targets import TargetMaker, Targets
from raydet3d.models.losses import FocalLoss
from raydet3d.ops import (
    limit_period,
    map_to_rows,
    nms_aligned,
    nms_rotated,
    pointwise_conv,
    pointwise_conv_and_gather,
    upcast_half,
)
from raydet3d.registry import MODELS, TASK_UTILS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes


@dataclass(frozen=True)
class AnchorHeadTrainCfg:
    """Keys of a head's `train_cfg`.

    Attributes:
        assigner: One per size of anchor, or one for all.
        allowed_border: Accepted as published configs carry it; no anchor of a bird's-eye grid is outside of it.
        pos_weight: Weight of anchors with an object in the classification loss; one where it is not positive.
        code_weight: Weight of each number of a box in its loss.
        debug: Accepted as published configs carry it.
    """

    assigner: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    allowed_border: int = 0
    pos_weight: float = -1
    code_weight: Sequence[float] | None = None
    debug: bool = False


@dataclass(frozen=True)
class AnchorHeadTestCfg:
    """Keys of a head's `test_cfg`.

    Attributes:
        use_rotate_nms: Suppress by rotated overlap; False by that of boxes without their headings.
        nms_across_levels: Only False exists.
        nms_thr: Overlap above which a box is suppressed by a better one of its class.
        score_thr: Boxes of a lower score are dropped.
        min_bbox_size: Accepted as published configs carry it.
        nms_pre: Anchors that are looked at, best first; all where it is not positive.
        max_num: Boxes of a frame at most.
    """

    use_rotate_nms: bool = True
    nms_across_levels: bool = False
    nms_thr: float = 0.01
    score_thr: float = 0.1
    min_bbox_size: float = 0
    nms_pre: int = 100
    max_num: int = 50


@MODELS.register_module()
class Anchor3DHead(nn.Module):
    """Head with anchors on one bird's-eye map.

    Args:
        num_classes: C.
        in_channels: Channels of the map.
        feat_channels: Accepted as published configs carry it.
        use_direction_classifier: Learn which half of the circle a heading lies in, which the sine cannot tell.
        anchor_generator: Where anchors stand.
        assigner_per_size: Accepted as published configs may carry it: a list of assigners means one per size.
        assign_per_class: Anchors of the i-th size find objects of the i-th class only.
        diff_rad_by_sin: Compare headings by the sine of their difference.
        dir_offset: Heading at which the first half of the circle begins; radians.
        dir_limit_offset: Where headings are cut, as a share of the period below `dir_offset`.
        bbox_coder: How boxes are told relative to anchors.
        loss_cls: Loss of classes.
        loss_bbox: Loss of encoded boxes.
        loss_dir: Loss of directions.
        train_cfg: See `AnchorHeadTrainCfg`; None for a head that only predicts.
        test_cfg: See `AnchorHeadTestCfg`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        use_direction_classifier: bool = True,
        anchor_generator: Mapping[str, Any] = {
            "type": "Anchor3DRangeGenerator",
            "ranges": [[0, -39.68, -1.78, 69.12, 39.68, -1.78]],
            "sizes": [[3.9, 1.6, 1.56]],
            "rotations": [0, 1.57],
        },
        assigner_per_size: bool = False,
        assign_per_class: bool = False,
        diff_rad_by_sin: bool = True,
        dir_offset: float = -math.pi / 2,
        dir_limit_offset: float = 0,
        bbox_coder: Mapping[str, Any] = {"type": "DeltaXYZWLHRBBoxCoder"},
        loss_cls: Mapping[str, Any] = {"type": "FocalLoss"},
        loss_bbox: Mapping[str, Any] = {"type": "SmoothL1Loss", "beta": 1 / 9, "loss_weight": 2.0},
        loss_dir: Mapping[str, Any] = {"type": "CrossEntropyLoss", "loss_weight": 0.2},
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.feat_channels = feat_channels
        self.assigner_per_size = assigner_per_size
        self.diff_rad_by_sin = diff_rad_by_sin
        self.dir_offset = dir_offset
        self.dir_limit_offset = dir_limit_offset
        generator = TASK_UTILS.build(anchor_generator)
        self.coder = TASK_UTILS.build(bbox_coder)
        self.code_size: int = self.coder.code_size
        if generator.box_code_size != self.code_size:
            raise InputError(
                f"Anchor3DHead: anchors have {generator.box_code_size} numbers (7 and custom_values), "
                f"but bbox_coder.code_size is {self.code_size}"
            )
        self.loss_cls: nn.Module = MODELS.build(loss_cls)
        self.loss_bbox: nn.Module = MODELS.build(loss_bbox)
        self.num_anchors: int = generator.num_base_anchors
        self.conv_cls = nn.Conv2d(in_channels, self.num_anchors * num_classes, 1)
        self.conv_reg = nn.Conv2d(in_channels, self.num_anchors * self.code_size, 1)
        self.conv_dir_cls: nn.Conv2d | None = None
        if use_direction_classifier:
            self.loss_dir = MODELS.build(loss_dir)
            self.conv_dir_cls = nn.Conv2d(in_channels, self.num_anchors * 2, 1)
        self.train_cfg: AnchorHeadTrainCfg | None = None
        if train_cfg is not None:
            self.train_cfg = TASK_UTILS.build({**train_cfg, "type": AnchorHeadTrainCfg})
        self.test_cfg: AnchorHeadTestCfg = TASK_UTILS.build({**(test_cfg or {}), "type": AnchorHeadTestCfg})
        if self.test_cfg.nms_across_levels:
            raise InputError("test_cfg.nms_across_levels=True does not exist; False does")
        self.targets = TargetMaker(
            generator,
            self.coder,
            self.train_cfg.assigner if self.train_cfg is not None else None,
            num_classes=num_classes,
            per_class=assign_per_class,
            dir_offset=dir_offset,
            dir_limit_offset=dir_limit_offset,
        )

    def init_weights(self) -> None:
        """Give the convolutions their published first values: every class begins with a probability of 1 %."""
        for conv in (self.conv_cls, self.conv_reg, self.conv_dir_cls):
            if conv is not None:
                nn.init.normal_(conv.weight, std=0.01)
                assert conv.bias is not None
                nn.init.constant_(conv.bias, -math.log(0.99 / 0.01) if conv is self.conv_cls else 0)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute whole maps.

        Args:
            feats: A list of one (B, in_channels, H, W) map.

        Returns:
            Class logits (B, A * C, H, W), encoded boxes (B, A * D, H, W), direction logits (B, A * 2, H, W) or None.
        """
        x = _only(feats)
        direction = self.conv_dir_cls(x) if self.conv_dir_cls is not None else None
        return self.conv_cls(x), self.conv_reg(x), direction

    # ------------------------------------------------------------------ training

    def loss(self, feats: Sequence[Tensor], data_samples: Sequence[Det3DDataSample]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Every parameter takes part even where no anchor has an object, so that ranks of a distributed run agree on
        which gradients there are.

        Args:
            feats: A list of one (B, in_channels, H, W) map.
            data_samples: B samples with `gt_instances_3d`.

        Returns:
            `loss_cls`, `loss_bbox` and, with a direction classifier, `loss_dir`.
        """
        x = _only(feats)
        targets = self.targets.make((x.shape[2], x.shape[3]), data_samples, x.device)
        rows = map_to_rows(x)  # (B * H * W, in_channels)
        cell = targets.positive // self.num_anchors
        assert self.conv_cls.bias is not None
        # (B * H * W, A * C), (N, in_channels)
        logits, there = pointwise_conv_and_gather(rows, self.conv_cls.weight, self.conv_cls.bias, cell)
        slot = targets.positive - cell * self.num_anchors
        losses = {"loss_cls": self._loss_cls(logits.flatten(), targets)}
        deltas, wanted = self._at(there, self.conv_reg, slot), targets.deltas
        if self.diff_rad_by_sin:
            deltas, wanted = sin_difference(deltas, wanted)
        weight = None
        if self.train_cfg is not None and self.train_cfg.code_weight:
            weight = deltas.new_tensor(self.train_cfg.code_weight).expand_as(deltas)
        losses["loss_bbox"] = self.loss_bbox(deltas, wanted, weight, avg_factor=targets.total)
        if self.conv_dir_cls is not None:
            direction = self._at(there, self.conv_dir_cls, slot)  # (N, 2)
            losses["loss_dir"] = self.loss_dir(direction, targets.bins, avg_factor=targets.total)
        return losses

    def _at(self, rows: Tensor, conv: nn.Conv2d, slot: Tensor) -> Tensor:
        """What a convolution says of one anchor of each row's cell: (N, in_channels), (N,) to (N, numbers)."""
        said = pointwise_conv(rows, conv.weight, conv.bias).unflatten(1, (self.num_anchors, -1))  # (N, A, numbers)
        return upcast_half(said[torch.arange(len(slot), device=slot.device), slot])

    def _loss_cls(self, logits: Tensor, targets: Targets) -> Tensor:
        classes = self.num_classes
        pos_weight = self.train_cfg.pos_weight if self.train_cfg is not None else -1
        if type(self.loss_cls) is FocalLoss and self.loss_cls.reduction == "mean" and pos_weight <= 0:
            ignored = targets.ignored[:, None] * classes + torch.arange(classes, device=logits.device)
            positive = targets.positive * classes + targets.labels
            return self.loss_cls.sparse_forward(logits, positive, ignored.flatten(), targets.total)
        rows = logits.view(-1, classes)
        labels = targets.labels.new_full((len(rows),), classes)
        labels[targets.positive] = targets.labels
        weight = torch.ones(len(rows), device=logits.device)
        weight[targets.positive] = pos_weight if pos_weight > 0 else 1.0
        weight[targets.ignored] = 0
        loss: Tensor = self.loss_cls(rows, labels, weight, avg_factor=targets.total)
        return loss

    # ------------------------------------------------------------------ predicting

    @torch.no_grad()
    def predict(self, feats: Sequence[Tensor], data_samples: Sequence[Det3DDataSample]) -> list[InstanceData]:
        """Find boxes.

        Args:
            feats: A list of one (B, in_channels, H, W) map.
            data_samples: B samples; `box_type_3d` in their meta information says what kind of boxes to make.

        Returns:
            B times `bboxes_3d`, `scores_3d` and `labels_3d`.
        """
        x = _only(feats)
        batch, _, height, width = x.shape
        anchors = self.targets.anchors((height, width), x.device)
        rows = map_to_rows(x)
        logits = upcast_half(pointwise_conv(rows, self.conv_cls.weight, self.conv_cls.bias)).view(
            batch, len(anchors), self.num_classes
        )
        count = self.test_cfg.nms_pre if self.test_cfg.nms_pre > 0 else len(anchors)
        best = logits.amax(dim=2).topk(min(count, len(anchors)), dim=1).indices  # (B, n)
        scores = logits.gather(1, best[..., None].expand(-1, -1, self.num_classes)).sigmoid()  # (B, n, C)
        cell, slot = best // self.num_anchors, (best % self.num_anchors).flatten()
        cell = cell + torch.arange(batch, device=x.device)[:, None] * (height * width)
        there = rows.index_select(0, cell.flatten())
        boxes = self.coder.decode(anchors[best.flatten()], self._at(there, self.conv_reg, slot))
        bins = torch.zeros_like(slot)
        if self.conv_dir_cls is not None:
            bins = self._at(there, self.conv_dir_cls, slot).argmax(dim=1)
        boxes, bins = boxes.view(batch, -1, self.code_size), bins.view(batch, -1)
        return [
            self._choose(boxes[i], scores[i], bins[i], data_samples[i].metainfo.get("box_type_3d"))
            for i in range(batch)
        ]

    def _choose(self, boxes: Tensor, scores: Tensor, bins: Tensor, box_type: Any) -> InstanceData:
        """Suppress class by class: boxes (n, D), scores (n, C), bins (n,)."""
        cfg = self.test_cfg
        kept, labels = [], []
        for label in range(self.num_classes):
            mine = (scores[:, label] > cfg.score_thr).nonzero().squeeze(1)
            if not len(mine):
                continue
            own, own_scores = boxes[mine], scores[mine, label]
            if cfg.use_rotate_nms:
                good = nms_rotated(own[:, [0, 1, 3, 4, 6]], own_scores, cfg.nms_thr)
            else:
                half = own[:, 3:5] / 2
                good = nms_aligned(torch.cat((own[:, :2] - half, own[:, :2] + half), 1), own_scores, cfg.nms_thr)
            kept.append(mine[good])
            labels.append(torch.full_like(kept[-1], label))
        index = torch.cat(kept) if kept else bins[:0]
        label_of = torch.cat(labels) if labels else bins[:0]
        score = scores[index, label_of]
        if len(index) > cfg.max_num:
            top = score.argsort(descending=True, stable=True)[: cfg.max_num]
            index, label_of, score = index[top], label_of[top], score[top]
        found = boxes[index]
        if self.conv_dir_cls is not None:
            yaw = limit_period(found[:, 6] - self.dir_offset, self.dir_limit_offset, math.pi)
            found[:, 6] = yaw + self.dir_offset + math.pi * bins[index]
        kind = box_type if callable(box_type) else LiDARInstance3DBoxes
        return InstanceData(bboxes_3d=kind(found, box_dim=self.code_size), scores_3d=score, labels_3d=label_of)


def sin_difference(deltas: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the angles a and b (column 6) by sin a cos b and cos a sin b, whose difference is sin(a - b)."""
    a, b = deltas[:, 6:7], targets[:, 6:7]
    first = torch.cat((deltas[:, :6], torch.sin(a) * torch.cos(b), deltas[:, 7:]), dim=1)
    second = torch.cat((targets[:, :6], torch.cos(a) * torch.sin(b), targets[:, 7:]), dim=1)
    return first, second


def _only(feats: Sequence[Tensor]) -> Tensor:
    if len(feats) != 1:
        raise InputError(f"Anchor3DHead works on one feature map, got {len(feats)}")
    return feats[0]
