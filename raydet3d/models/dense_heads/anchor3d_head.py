"""`Anchor3DHead`: class, box and direction of every anchor; targets, losses and predictions.

`loss` and `predict` have two paths with the same results. The published one computes whole maps and goes through the
methods that plug-ins override (`forward_single`, `get_anchors`, `anchor_target_3d`, `loss_by_feat`, ...). The sparse
one computes boxes and directions only at the positive anchors, and at the best ones for predictions, as rows of the
same 1x1 convolutions; it is taken on one map while none of those methods is overridden.

Shapes: B batch, H and W size of the map, S sizes, R rotations, A = S * R anchors of a cell, C numbers of a box, P
positive anchors. An anchor's index in a batch is ((b * H + y) * W + x) * A + s * R + r.
Source: SECOND (Yan et al. 2018), sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.config import ConfigValue
from raydet3d.errors import InputError
from raydet3d.models.dense_heads.anchor_head_cfg import AnchorHeadTestCfg, AnchorHeadTrainCfg
from raydet3d.models.dense_heads.anchor_targets import AnchorTrainMixin
from raydet3d.models.dense_heads.base import Base3DDenseHead, HeadCfg, Losses
from raydet3d.models.dense_heads.sparse_anchor_targets import (
    AnchorCache,
    SparseAnchorTargets,
    sparse_anchor_targets,
)
from raydet3d.models.losses import FocalLoss
from raydet3d.models.module import ConfigType, InitCfg
from raydet3d.models.task_modules.anchor_generators import Anchor3DRangeGenerator
from raydet3d.models.task_modules.assigners import Max3DIoUAssigner
from raydet3d.models.task_modules.pseudo_sampler import PseudoSampler
from raydet3d.models.weight_init import bias_init_with_prob
from raydet3d.ops import (
    limit_period,
    map_to_rows,
    multiclass_nms,
    pointwise_conv,
    pointwise_conv_and_gather,
    upcast_half,
)
from raydet3d.registry import MODELS, TASK_UTILS
from raydet3d.structures import Boxes3D, Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from raydet3d.structures.sample_types import SampleMeta


@MODELS.register_module()
class Anchor3DHead(Base3DDenseHead, AnchorTrainMixin):
    """Anchor head on bird's-eye-view maps.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the map.
        feat_channels: Accepted for published configs.
        use_direction_classifier: Classify the half of the circle that a yaw lies in, which its sine does not tell.
        anchor_generator: Anchor generator.
        assigner_per_size: Accepted for published configs; a list of assigners means one per size.
        assign_per_class: Anchors of the i-th size are assigned to boxes of the i-th class only.
        diff_rad_by_sin: Compare yaws by the sine of their difference.
        dir_offset: Yaw at which the first direction bin begins; radians.
        dir_limit_offset: Offset of the period of yaws, as a share of it.
        bbox_coder: Box coder.
        loss_cls: Classification loss.
        loss_bbox: Box loss.
        loss_dir: Direction loss.
        train_cfg: See `AnchorHeadTrainCfg`; None for a head that only predicts.
        test_cfg: See `AnchorHeadTestCfg`.
        init_cfg: Weight initialization; by default N(0, 0.01), and a probability of 0.01 for every class.
    """

    loss_dir: nn.Module

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        use_direction_classifier: bool = True,
        anchor_generator: Mapping[str, ConfigValue] = {
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
        bbox_coder: Mapping[str, ConfigValue] = {"type": "DeltaXYZWLHRBBoxCoder"},
        loss_cls: Mapping[str, ConfigValue] = {"type": "FocalLoss"},
        loss_bbox: Mapping[str, ConfigValue] = {"type": "SmoothL1Loss", "beta": 1 / 9, "loss_weight": 2.0},
        loss_dir: Mapping[str, ConfigValue] = {"type": "CrossEntropyLoss", "loss_weight": 0.2},
        train_cfg: ConfigType | None = None,
        test_cfg: ConfigType | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg or {"type": "Normal", "layer": "Conv2d", "std": 0.01})
        self._default_init = init_cfg is None
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.feat_channels = feat_channels
        self.use_direction_classifier = use_direction_classifier
        self.assigner_per_size = assigner_per_size
        self.assign_per_class = assign_per_class
        self.diff_rad_by_sin = diff_rad_by_sin
        self.dir_offset = dir_offset
        self.dir_limit_offset = dir_limit_offset
        self.prior_generator: Anchor3DRangeGenerator = TASK_UTILS.build(anchor_generator)
        self.num_anchors = self.prior_generator.num_base_anchors
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.box_code_size: int = self.bbox_coder.code_size
        if self.prior_generator.box_code_size != self.box_code_size:
            raise InputError(
                f"Anchor3DHead: anchors have {self.prior_generator.box_code_size} numbers (7 and custom_values), "
                f"but bbox_coder.code_size is {self.box_code_size}"
            )
        self.loss_cls: nn.Module = MODELS.build(loss_cls)
        self.loss_bbox: nn.Module = MODELS.build(loss_bbox)
        self.use_sigmoid_cls = bool(getattr(self.loss_cls, "use_sigmoid", True))
        if not self.use_sigmoid_cls:
            raise InputError("Anchor3DHead: loss_cls needs use_sigmoid=True; the head has no background class")
        if use_direction_classifier:
            self.loss_dir = MODELS.build(loss_dir)
        strict = type(self) is Anchor3DHead
        self.train_cfg = AnchorHeadTrainCfg.from_cfg(train_cfg, strict=strict) if train_cfg is not None else None
        self.test_cfg = AnchorHeadTestCfg.from_cfg(test_cfg or {}, strict=strict)
        if self.test_cfg.nms_across_levels:
            raise InputError("test_cfg.nms_across_levels=True is not supported; use False")
        self._init_layers()
        self._init_assigner_sampler()
        self._anchors = AnchorCache()

    def _init_layers(self) -> None:
        """Create the convolutions."""
        self.cls_out_channels = self.num_anchors * self.num_classes
        self.conv_cls = nn.Conv2d(self.in_channels, self.cls_out_channels, 1)
        self.conv_reg = nn.Conv2d(self.in_channels, self.num_anchors * self.box_code_size, 1)
        self.conv_dir_cls: nn.Conv2d | None = None
        if self.use_direction_classifier:
            self.conv_dir_cls = nn.Conv2d(self.in_channels, self.num_anchors * 2, 1)

    def _init_assigner_sampler(self) -> None:
        """Create the assigners and the sampler."""
        if self.train_cfg is None:
            return
        self.sampling = self.train_cfg.sampler is not None
        self.bbox_sampler = TASK_UTILS.build(self.train_cfg.sampler) if self.train_cfg.sampler else PseudoSampler()
        given = self.train_cfg.assigner
        if isinstance(given, Mapping):
            self.bbox_assigner = TASK_UTILS.build(given)
            return
        self.bbox_assigner = [TASK_UTILS.build(one) for one in given]
        sizes = len(self.prior_generator.sizes)
        if len(given) != sizes:
            raise InputError(f"train_cfg.assigner: a list has one per size of anchor ({sizes}), got {len(given)}")
        if self.assign_per_class and sizes != self.num_classes:
            raise InputError(
                f"Anchor3DHead: assign_per_class=True needs a size of anchor and an assigner for each of the "
                f"{self.num_classes} classes, got {sizes} sizes and {len(given)} assigners"
            )

    @override
    def init_weights(self) -> None:
        super().init_weights()
        if self._default_init and self.conv_cls.bias is not None:
            nn.init.constant_(self.conv_cls.bias, bias_init_with_prob(0.01))

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the outputs on one map.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            Class logits (B, A * num_classes, H, W), encoded boxes (B, A * C, H, W) and direction logits
            (B, A * 2, H, W), or None without a direction classifier.
        """
        return self.conv_cls(x), self.conv_reg(x), self.conv_dir_cls(x) if self.conv_dir_cls is not None else None

    @override
    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
        """Compute `forward_single` on the map of each level; three lists over the levels."""
        cls_scores, bbox_preds, dir_cls_preds = zip(*(self.forward_single(level) for level in x), strict=True)
        return list(cls_scores), list(bbox_preds), list(dir_cls_preds)

    def get_anchors(
        self,
        featmap_sizes: Sequence[Sequence[int]],
        input_metas: Sequence[SampleMeta],
        device: torch.device | str = "cuda",
    ) -> list[list[Tensor]]:
        """Return the anchors of each level, for each frame.

        Args:
            featmap_sizes: (H, W) of each level.
            input_metas: Meta information of each frame.
            device: Where the anchors are made.
        """
        levels = self.prior_generator.grid_anchors(featmap_sizes, device=device)
        if isinstance(getattr(self, "bbox_assigner", None), list) and len(levels) == 1:
            shape = (1, *featmap_sizes[0], len(self.prior_generator.sizes), -1, levels[0].shape[-1])
            levels = [levels[0].reshape(shape)]  # also where the generator flattens them
        return [list(levels) for _ in input_metas]

    # ------------------------------------------------------------------ losses on whole maps

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
        """Compute the losses of a batch from the outputs of `forward`.

        Args:
            cls_scores: (B, A * num_classes, H, W) of each level.
            bbox_preds: (B, A * C, H, W) of each level.
            dir_cls_preds: (B, A * 2, H, W) of each level, or None.
            batch_gt_instances_3d: `bboxes_3d` and `labels_3d` of each frame.
            batch_input_metas: Meta information of each frame.
            batch_gt_instances_ignore: Ignored instances of each frame.

        Returns:
            `loss_cls`, `loss_bbox` and, with a direction classifier, `loss_dir`: one tensor per level.
        """
        self._check_trainable()
        sizes = [tuple(scores.shape[-2:]) for scores in cls_scores]
        *targets, num_pos, num_neg = self.anchor_target_3d(
            self.get_anchors(sizes, batch_input_metas, device=cls_scores[0].device),
            batch_gt_instances_3d,
            batch_input_metas,
            batch_gt_instances_ignore=batch_gt_instances_ignore,
            num_classes=self.num_classes,
            label_channels=self.cls_out_channels,
            sampling=self.sampling,
        )
        total = num_pos + num_neg if self.sampling else num_pos
        per_level = [
            self._loss_by_feat_single(*level, total)  # type: ignore[call-arg]
            for level in zip(cls_scores, bbox_preds, dir_cls_preds, *targets, strict=True)
        ]
        losses = dict(zip(("loss_cls", "loss_bbox", "loss_dir"), map(list, zip(*per_level, strict=True)), strict=True))
        if not self.use_direction_classifier:
            del losses["loss_dir"]
        return losses

    def _loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        dir_cls_pred: Tensor | None,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        dir_targets: Tensor,
        dir_weights: Tensor,
        num_total_samples: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the losses of one level.

        Args:
            cls_score: (B, A * num_classes, H, W).
            bbox_pred: (B, A * C, H, W).
            dir_cls_pred: (B, A * 2, H, W), or None.
            labels: (B, n).
            label_weights: (B, n).
            bbox_targets: (B, n, C).
            bbox_weights: (B, n, C).
            dir_targets: (B, n).
            dir_weights: (B, n).
            num_total_samples: Divisor of the losses.

        Returns:
            Losses of classes, boxes and directions.
        """
        return self._loss_on_rows(
            map_to_rows(cls_score).reshape(-1, self.num_classes),
            map_to_rows(bbox_pred).reshape(-1, self.box_code_size),
            map_to_rows(dir_cls_pred).reshape(-1, 2) if dir_cls_pred is not None else None,
            (labels, label_weights, bbox_targets, bbox_weights, dir_targets, dir_weights),
            num_total_samples,
        )

    def _loss_on_rows(
        self, logits: Tensor, deltas: Tensor, directions: Tensor | None, targets: Sequence[Tensor], num_total: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the losses of rows of anchors, with the six targets of `loss_by_feat`."""
        labels, label_weights, bbox_targets, bbox_weights, dir_targets, dir_weights = (
            one.reshape(len(logits), -1).squeeze(1) for one in targets
        )
        loss_cls = self.loss_cls(logits, labels, label_weights, avg_factor=num_total)
        positive = ((labels >= 0) & (labels < self.num_classes)).nonzero().squeeze(1)
        loss_bbox = self._loss_bbox(deltas[positive], bbox_targets[positive], bbox_weights[positive], num_total)
        loss_dir = None
        if directions is not None:
            loss_dir = self.loss_dir(
                directions[positive], dir_targets[positive], dir_weights[positive], avg_factor=num_total
            )
        return loss_cls, loss_bbox, loss_dir

    def _loss_bbox(self, pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: float | Tensor) -> Tensor:
        """Compute the box loss of (P, C) positive anchors."""
        pred = upcast_half(pred)
        if self.diff_rad_by_sin:
            pred, target = self.add_sin_difference(pred, target)
        code_weight = self._train_setting("code_weight")
        if code_weight:
            factors = pred.new_tensor(code_weight)
            weight = factors.expand_as(pred) if weight is None else weight * factors
        loss: Tensor = self.loss_bbox(pred, target, weight, avg_factor=avg_factor)
        return loss

    @staticmethod
    def add_sin_difference(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the yaws a and b (column 6) by sin a cos b and cos a sin b, whose difference is sin(a - b).

        Args:
            boxes1: (P, C).
            boxes2: (P, C).
        """
        a, b = boxes1[..., 6:7], boxes2[..., 6:7]
        first = torch.cat((boxes1[..., :6], torch.sin(a) * torch.cos(b), boxes1[..., 7:]), dim=-1)
        second = torch.cat((boxes2[..., :6], torch.cos(a) * torch.sin(b), boxes2[..., 7:]), dim=-1)
        return first, second

    def _check_trainable(self) -> None:
        if self.train_cfg is None:
            raise InputError("Anchor3DHead: training needs a train_cfg with an assigner")

    # ------------------------------------------------------------------ losses at the positive anchors

    @override
    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[Det3DDataSample], **kwargs: Any) -> Losses:
        self._check_trainable()
        if not self._supports_sparse_loss(x):
            return super().loss(x, batch_data_samples, **kwargs)
        # Every parameter takes part even without positive anchors, so that ranks agree on which gradients there are.
        targets = self.sparse_targets((x[0].shape[2], x[0].shape[3]), batch_data_samples, x[0].device)
        rows = map_to_rows(x[0])  # (B * H * W, in_channels)
        cell = targets.positive // self.num_anchors
        slot = targets.positive - cell * self.num_anchors
        assert self.conv_cls.bias is not None
        # (B * H * W, A * num_classes), (P, in_channels)
        logits, features = pointwise_conv_and_gather(rows, self.conv_cls.weight, self.conv_cls.bias, cell)
        losses: Losses = {
            "loss_cls": [self._sparse_loss_cls(logits.flatten(), targets)],
            "loss_bbox": [
                self._loss_bbox(
                    self._at_anchors(features, self.conv_reg, slot), targets.bbox_targets, None, targets.avg_factor
                )
            ],
        }
        if self.conv_dir_cls is not None:
            direction = self._at_anchors(features, self.conv_dir_cls, slot)  # (P, 2)
            losses["loss_dir"] = [self.loss_dir(direction, targets.dir_targets, avg_factor=targets.avg_factor)]
        return losses

    def sparse_targets(
        self, size: tuple[int, int], data_samples: Sequence[Det3DDataSample], device: torch.device
    ) -> SparseAnchorTargets:
        """Compute the targets of a batch on a map of (H, W) cells."""
        self._check_trainable()
        per_size = isinstance(self.bbox_assigner, list)
        with torch.no_grad():
            return sparse_anchor_targets(
                self._anchors.rows(self.prior_generator, size, device),
                self._anchors.groups(self.prior_generator, size, device, per_size),
                self.bbox_assigner if isinstance(self.bbox_assigner, list) else [self.bbox_assigner],
                self.bbox_coder,
                data_samples,
                num_classes=self.num_classes,
                per_class=self.assign_per_class and per_size,
                dir_offset=self.dir_offset,
                dir_limit_offset=self.dir_limit_offset,
            )

    def _at_anchors(self, features: Tensor, conv: nn.Conv2d, slot: Tensor) -> Tensor:
        """Compute a convolution's outputs for one anchor of each cell: (N, in_channels) and (N,) to (N, numbers)."""
        outputs = pointwise_conv(features, conv.weight, conv.bias).unflatten(1, (self.num_anchors, -1))
        return upcast_half(outputs[torch.arange(len(slot), device=slot.device), slot])

    def _sparse_loss_cls(self, logits: Tensor, targets: SparseAnchorTargets) -> Tensor:
        """Compute the classification loss of (B * H * W * A * num_classes,) logits."""
        classes = self.num_classes
        pos_weight = self._train_setting("pos_weight", -1)
        if type(self.loss_cls) is FocalLoss and self.loss_cls.reduction == "mean" and pos_weight <= 0:
            ignored = targets.ignored[:, None] * classes + torch.arange(classes, device=logits.device)
            positive = targets.positive * classes + targets.labels
            return self.loss_cls.sparse_forward(logits, positive, ignored.flatten(), targets.avg_factor)
        rows = logits.view(-1, classes)
        labels = targets.labels.new_full((len(rows),), classes)
        labels[targets.positive] = targets.labels
        weight = torch.ones(len(rows), device=logits.device)
        weight[targets.positive] = pos_weight if pos_weight > 0 else 1.0
        weight[targets.ignored] = 0
        loss: Tensor = self.loss_cls(rows, labels, weight, avg_factor=targets.avg_factor)
        return loss

    def _supports_sparse_loss(self, x: Sequence[Tensor]) -> bool:
        """Whether the sparse path gives the results of the published methods."""
        assigners = self.bbox_assigner if isinstance(self.bbox_assigner, list) else [self.bbox_assigner]
        return (
            self._supports_sparse(x)
            and self._keeps("get_anchors", "anchor_target_3d", "anchor_target_3d_single")
            and self._keeps("anchor_target_single_assigner", "loss_by_feat", "_loss_by_feat_single")
            and type(self.bbox_sampler) is PseudoSampler
            and all(getattr(type(one), "assign", None) is Max3DIoUAssigner.assign for one in assigners)
        )

    # ------------------------------------------------------------------ predictions

    @override
    @torch.no_grad()
    def predict(
        self, x: Sequence[Tensor], batch_data_samples: Sequence[Det3DDataSample], rescale: bool = False
    ) -> list[InstanceData]:
        if not (self._supports_sparse(x) and self._keeps("predict_by_feat", "_predict_by_feat_single")):
            return super().predict(x, batch_data_samples, rescale=rescale)
        batch, _, height, width = x[0].shape
        anchors = self._anchors.rows(self.prior_generator, (height, width), x[0].device)
        rows = map_to_rows(x[0])
        logits = upcast_half(pointwise_conv(rows, self.conv_cls.weight, self.conv_cls.bias))
        logits = logits.view(batch, len(anchors), self.num_classes)
        best = self._best_anchors(logits, self.test_cfg)  # (B, n)
        scores = logits.gather(1, best[..., None].expand(-1, -1, self.num_classes)).sigmoid()  # (B, n, num_classes)
        cell, slot = best // self.num_anchors, (best % self.num_anchors).flatten()
        cell = cell + torch.arange(batch, device=best.device)[:, None] * (height * width)
        features = rows.index_select(0, cell.flatten())
        boxes = self.bbox_coder.decode(anchors[best.flatten()], self._at_anchors(features, self.conv_reg, slot))
        bins = torch.zeros_like(slot)
        if self.conv_dir_cls is not None:
            bins = self._at_anchors(features, self.conv_dir_cls, slot).argmax(dim=1)
        boxes, bins = boxes.view(batch, -1, self.box_code_size), bins.view(batch, -1)
        return [
            self._select_boxes(boxes[i], scores[i], bins[i], sample.metainfo.get("box_type_3d"), self.test_cfg)
            for i, sample in enumerate(batch_data_samples)
        ]

    @override
    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        dir_cls_preds: Sequence[Tensor | None],
        batch_input_metas: Sequence[SampleMeta] = (),
        cfg: HeadCfg | None = None,
        rescale: bool = False,
        **kwargs: Any,
    ) -> list[InstanceData]:
        """Predict boxes from the outputs of `forward`.

        Args:
            cls_scores: (B, A * num_classes, H, W) of each level.
            bbox_preds: (B, A * C, H, W) of each level.
            dir_cls_preds: (B, A * 2, H, W) of each level, or None.
            batch_input_metas: Meta information of each frame.
            cfg: Used instead of `test_cfg`.
            rescale: Not used.
            **kwargs: Passed to `_predict_by_feat_single`.

        Returns:
            `bboxes_3d`, `scores_3d` and `labels_3d` of each frame.
        """
        sizes = [tuple(scores.shape[-2:]) for scores in cls_scores]
        priors = self.prior_generator.grid_anchors(sizes, device=cls_scores[0].device)
        priors = [one.reshape(-1, self.box_code_size) for one in priors]
        return [
            self._predict_by_feat_single(
                cls_score_list=[level[i] for level in cls_scores],
                bbox_pred_list=[level[i] for level in bbox_preds],
                dir_cls_pred_list=[None if level is None else level[i] for level in dir_cls_preds],
                mlvl_priors=priors,
                input_meta=meta,
                cfg=cfg,
                rescale=rescale,
                **kwargs,
            )
            for i, meta in enumerate(batch_input_metas)
        ]

    def _predict_by_feat_single(
        self,
        cls_score_list: Sequence[Tensor],
        bbox_pred_list: Sequence[Tensor],
        dir_cls_pred_list: Sequence[Tensor | None],
        mlvl_priors: Sequence[Tensor],
        input_meta: SampleMeta,
        cfg: HeadCfg | None = None,
        rescale: bool = False,
        **kwargs: Any,
    ) -> InstanceData:
        """Predict the boxes of one frame.

        Args:
            cls_score_list: (A * num_classes, H, W) of each level.
            bbox_pred_list: (A * C, H, W) of each level.
            dir_cls_pred_list: (A * 2, H, W) of each level, or None.
            mlvl_priors: (H * W * A, C) anchors of each level.
            input_meta: `box_type_3d` is the class of the boxes.
            cfg: Used instead of `test_cfg`.
            rescale: Not used.
            **kwargs: Not used.
        """
        cfg = self.test_cfg if cfg is None else cfg
        boxes, scores, bins = [], [], []
        for cls_score, bbox_pred, dir_cls_pred, priors in zip(
            cls_score_list, bbox_pred_list, dir_cls_pred_list, mlvl_priors, strict=True
        ):
            logits = upcast_half(map_to_rows(cls_score[None])).reshape(1, -1, self.num_classes)
            best = self._best_anchors(logits, cfg)[0]
            deltas = upcast_half(map_to_rows(bbox_pred[None]).reshape(-1, self.box_code_size)[best])
            boxes.append(self.bbox_coder.decode(priors[best], deltas))
            scores.append(logits[0, best].sigmoid())
            bins.append(torch.zeros_like(best))
            if dir_cls_pred is not None:
                bins[-1] = map_to_rows(dir_cls_pred[None]).reshape(-1, 2)[best].argmax(dim=1)
        return self._select_boxes(
            torch.cat(boxes), torch.cat(scores), torch.cat(bins), input_meta.get("box_type_3d"), cfg
        )

    def _best_anchors(self, logits: Tensor, cfg: HeadCfg) -> Tensor:
        """Return the (B, nms_pre) anchors with the highest class logits (B, n, num_classes), best first."""
        limit = cfg.get("nms_pre", -1)
        count = min(limit, logits.shape[1]) if limit > 0 else logits.shape[1]
        return logits.amax(dim=2).topk(count, dim=1).indices

    def _select_boxes(
        self, boxes: Tensor, scores: Tensor, bins: Tensor, box_type: type[Boxes3D] | None, cfg: HeadCfg
    ) -> InstanceData:
        """Suppress boxes class by class and keep the best.

        Args:
            boxes: (n, C).
            scores: (n, num_classes).
            bins: (n,) direction bins.
            box_type: Class of the boxes.
            cfg: Test settings.
        """
        index, score, labels = multiclass_nms(
            boxes[:, [0, 1, 3, 4, 6]],
            scores,
            score_thr=cfg.get("score_thr", 0),
            iou_thr=cfg.nms_thr,
            max_num=cfg.max_num,
            rotated=cfg.use_rotate_nms,
        )
        selected = boxes[index]
        if self.use_direction_classifier:
            yaw = limit_period(selected[:, 6] - self.dir_offset, self.dir_limit_offset, math.pi)
            selected[:, 6] = yaw + self.dir_offset + math.pi * bins[index]
        boxes_3d = (box_type if callable(box_type) else LiDARInstance3DBoxes)(selected, box_dim=self.box_code_size)
        return InstanceData(bboxes_3d=boxes_3d, scores_3d=score, labels_3d=labels)

    # ------------------------------------------------------------------ choice of the path

    def _keeps(self, *methods: str) -> bool:
        """Whether none of the methods is overridden."""
        return all(getattr(type(self), name) is getattr(Anchor3DHead, name) for name in methods)

    def _supports_sparse(self, x: Sequence[Tensor]) -> bool:
        """Whether one map, the published forward pass and plain 1x1 convolutions are used."""
        generator = type(self.prior_generator)
        return (
            len(x) == 1
            and self._keeps("forward", "forward_single")
            and getattr(generator, "grid_anchors", None) is Anchor3DRangeGenerator.grid_anchors
            and all(_is_pointwise(conv) for conv in (self.conv_cls, self.conv_reg))
            and (self.conv_dir_cls is None or _is_pointwise(self.conv_dir_cls))
        )


def _is_pointwise(conv: nn.Module) -> bool:
    """Whether a module is a plain 1x1 convolution with a bias, without forward hooks."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.groups == 1
        and conv.bias is not None
        and conv.padding == (0, 0)
        and not conv._forward_hooks
        and not conv._forward_pre_hooks
    )
