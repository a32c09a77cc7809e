"""`ShapeAwareHead`: an anchor head with a branch for each group of classes of similar shape.

Shapes: B batch, H and W size of a branch's map, A anchors of a cell in a branch, R rotations, n anchors of a frame
(those of the first class first; of a class those of the first rotation first), C numbers of a box.
Source: SSN (Zhu et al. 2020), section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.dense_heads.anchor3d_head import Anchor3DHead
from raydet3d.models.dense_heads.anchor_targets import SingleTargets
from raydet3d.models.dense_heads.base import HeadCfg, Losses
from raydet3d.models.layers.build_layer import check_same_length
from raydet3d.models.layers.conv_module import ConvModule
from raydet3d.models.module import BaseModule, ConfigType, InitCfg
from raydet3d.models.task_modules.anchor_generators import AlignedAnchor3DRangeGeneratorPerCls
from raydet3d.ops import upcast_half
from raydet3d.registry import MODELS
from raydet3d.structures import InstanceData
from raydet3d.structures.sample_types import SampleMeta

_CONV = {"type": "Conv2d"}
_NORM = {"type": "BN2d"}


@MODELS.register_module()
class BaseShapeHead(BaseModule):
    """Branch of a group of classes: shared convolutions, then class, box and direction of each anchor.

    Args:
        num_cls: Number of classes of the whole head.
        num_base_anchors: A.
        box_code_size: C.
        in_channels: Channels of the input.
        shared_conv_channels: Channels of each shared convolution; larger objects want more of them.
        shared_conv_strides: Stride of each shared convolution.
        use_direction_classifier: Classify the half of the circle that a yaw lies in.
        conv_cfg: Shared convolutions.
        norm_cfg: Normalization after each shared convolution.
        bias: Whether the shared convolutions have a bias.
        init_cfg: Weight initialization; by default Kaiming, N(0, 0.01) and a probability of 0.01 for every class.
    """

    def __init__(
        self,
        num_cls: int,
        num_base_anchors: int,
        box_code_size: int,
        in_channels: int,
        shared_conv_channels: Sequence[int] = (64, 64),
        shared_conv_strides: Sequence[int] = (1, 1),
        use_direction_classifier: bool = True,
        conv_cfg: ConfigType = _CONV,
        norm_cfg: ConfigType = _NORM,
        bias: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        outputs = ["conv_cls", *(["conv_dir_cls"] if use_direction_classifier else [])]
        override_init = [{"type": "Normal", "name": "conv_reg", "std": 0.01}] + [
            {"type": "Normal", "name": name, "std": 0.01, "bias_prob": 0.01} for name in outputs
        ]
        super().__init__(init_cfg or {"type": "Kaiming", "layer": "Conv2d", "override": override_init})
        check_same_length(
            "BaseShapeHead", shared_conv_channels=shared_conv_channels, shared_conv_strides=shared_conv_strides
        )
        self.num_cls = num_cls
        self.num_base_anchors = num_base_anchors
        self.box_code_size = box_code_size
        self.use_direction_classifier = use_direction_classifier
        layers = []
        for channels, stride in zip(shared_conv_channels, shared_conv_strides, strict=True):
            layers.append(
                ConvModule(
                    in_channels,
                    channels,
                    kernel_size=3,
                    stride=stride,
                    padding=1,
                    bias=bias,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                )
            )
            in_channels = channels
        self.shared_conv = nn.Sequential(*layers)
        self.conv_cls = nn.Conv2d(in_channels, num_base_anchors * num_cls, 1)
        self.conv_reg = nn.Conv2d(in_channels, num_base_anchors * box_code_size, 1)
        if use_direction_classifier:
            self.conv_dir_cls = nn.Conv2d(in_channels, num_base_anchors * 2, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Compute the outputs on a (B, in_channels, H, W) map.

        Returns:
            `cls_score` (B, A * H * W, num_cls), `bbox_pred` (B, A * H * W, C), `dir_cls_preds` (B, A * H * W, 2) or
            None, and `featmap_size` (H, W).
        """
        x = self.shared_conv(x)
        return {
            "cls_score": self._rows(self.conv_cls(x), self.num_cls),
            "bbox_pred": self._rows(self.conv_reg(x), self.box_code_size),
            "dir_cls_preds": self._rows(self.conv_dir_cls(x), 2) if self.use_direction_classifier else None,
            "featmap_size": tuple(x.shape[-2:]),
        }

    def _rows(self, maps: Tensor, numbers: int) -> Tensor:
        """Make rows of anchors: (B, A * numbers, H, W) to (B, A * H * W, numbers)."""
        rows: Tensor = maps.unflatten(1, (self.num_base_anchors, numbers)).permute(0, 1, 3, 4, 2)
        return rows.flatten(1, 3)


@MODELS.register_module()
class ShapeAwareHead(Anchor3DHead):
    """Anchor head with one branch for each group of classes (SSN).

    Args:
        tasks: Of each group: `num_class`, `class_names`, `shared_conv_channels` and `shared_conv_strides`. The classes
            of all groups together are those of the head, in the same order.
        assign_per_class: Anchors of a class are assigned to boxes of that class only.
        init_cfg: As for `Anchor3DHead`; the branches have theirs.
        **kwargs: Arguments of `Anchor3DHead`. The anchor generator is an `AlignedAnchor3DRangeGeneratorPerCls`, and
            `train_cfg.assigner` has one for each class.
    """

    prior_generator: AlignedAnchor3DRangeGeneratorPerCls

    def __init__(
        self,
        tasks: Sequence[ConfigType],
        assign_per_class: bool = True,
        init_cfg: InitCfg = None,
        **kwargs: Any,
    ) -> None:
        self.tasks = tasks
        self.featmap_sizes: list[tuple[int, int]] = []
        super().__init__(assign_per_class=assign_per_class, init_cfg=init_cfg, **kwargs)

    @override
    def _init_layers(self) -> None:
        if not isinstance(self.prior_generator, AlignedAnchor3DRangeGeneratorPerCls):
            raise InputError("ShapeAwareHead: anchor_generator.type is AlignedAnchor3DRangeGeneratorPerCls")
        classes = sum(task["num_class"] for task in self.tasks)
        if not classes == self.num_classes == len(self.prior_generator.sizes):
            raise InputError(
                f"ShapeAwareHead: tasks have {classes} classes and anchor_generator.sizes has "
                f"{len(self.prior_generator.sizes)} entries, but num_classes={self.num_classes}"
            )
        self.cls_out_channels = self.num_anchors * self.num_classes
        self.heads = nn.ModuleList(
            BaseShapeHead(
                num_cls=self.num_classes,
                num_base_anchors=len(self.prior_generator.rotations) * task["num_class"],
                box_code_size=self.box_code_size,
                in_channels=self.in_channels,
                shared_conv_channels=task["shared_conv_channels"],
                shared_conv_strides=task["shared_conv_strides"],
                use_direction_classifier=self.use_direction_classifier,
            )
            for task in self.tasks
        )

    @override
    def init_weights(self) -> None:
        for head in self.heads:
            assert isinstance(head, BaseShapeHead)
            head.init_weights()
        self._is_init = True

    @override
    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the outputs of all branches on one map.

        Args:
            x: (B, in_channels, H, W).

        Returns:
            Class logits (B, n, num_classes), encoded boxes (B, n, C) and direction logits (B, n, 2) or None.
        """
        results = [head(x) for head in self.heads]
        self.featmap_sizes = [
            result["featmap_size"]
            for result, task in zip(results, self.tasks, strict=True)
            for _ in range(task["num_class"])
        ]
        scores, boxes = (torch.cat([result[key] for result in results], dim=1) for key in ("cls_score", "bbox_pred"))
        if not self.use_direction_classifier:
            return scores, boxes, None
        return scores, boxes, torch.cat([result["dir_cls_preds"] for result in results], dim=1)

    @override
    def get_anchors(
        self,
        featmap_sizes: Sequence[Sequence[int]],
        input_metas: Sequence[Mapping[str, Any]],
        device: torch.device | str = "cuda",
    ) -> list[list[Tensor]]:
        """Return the (n, C) anchors of the only level, for each frame.

        Args:
            featmap_sizes: (H, W) of the map of each class.
            input_metas: Meta information of each frame.
            device: Where the anchors are made.
        """
        anchors = torch.cat(self.prior_generator.grid_anchors(featmap_sizes, device=device)[0])
        return [[anchors] for _ in input_metas]

    @override
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
        if not isinstance(self.bbox_assigner, list):
            raise InputError(f"ShapeAwareHead: train_cfg.assigner is a list with one for each of {num_classes} classes")
        counts = [len(self.prior_generator.rotations) * height * width for height, width in self.featmap_sizes]
        per_class = anchors.split(counts)
        begins = torch.tensor([0, *counts]).cumsum(0).tolist()
        labels = torch.as_tensor(gt_instance_3d.labels_3d)
        targets = []
        for i, (assigner, own) in enumerate(zip(self.bbox_assigner, per_class, strict=True)):
            truth = gt_instance_3d
            if self.assign_per_class:
                chosen = labels == i
                truth = InstanceData(bboxes_3d=truth.bboxes_3d[chosen], labels_3d=labels[chosen])
            *dense, positive, negative = self.anchor_target_single_assigner(
                assigner, own, truth, gt_instance_ignore, input_meta, num_classes, sampling
            )
            targets.append((*dense, positive + begins[i], negative + begins[i]))
        return tuple(torch.cat(column) for column in zip(*targets, strict=True))  # type: ignore[return-value]

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
        """Compute the losses of a batch from the outputs of `forward`: see `forward_single` for their shapes."""
        self._check_trainable()
        *targets, num_pos, num_neg = self.anchor_target_3d(
            self.get_anchors(self.featmap_sizes, batch_input_metas, device=cls_scores[0].device),
            batch_gt_instances_3d,
            batch_input_metas,
            batch_gt_instances_ignore=batch_gt_instances_ignore,
            num_classes=self.num_classes,
            sampling=self.sampling,
        )
        total = num_pos + num_neg if self.sampling else num_pos
        labels, label_weights, box_targets, box_weights, dir_targets, dir_weights = (column[0] for column in targets)
        loss_cls, loss_bbox, loss_dir = self.loss_single(
            cls_scores[0],
            bbox_preds[0],
            dir_cls_preds[0],
            labels,
            label_weights,
            box_targets,
            box_weights,
            dir_targets,
            dir_weights,
            num_total_samples=total,
        )
        losses: Losses = {"loss_cls": [loss_cls], "loss_bbox": [loss_bbox]}
        return losses if loss_dir is None else {**losses, "loss_dir": [loss_dir]}

    def loss_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        dir_cls_preds: Tensor | None,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        dir_targets: Tensor,
        dir_weights: Tensor,
        num_total_samples: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the losses of the only level.

        Args:
            cls_score: (B, n, num_classes).
            bbox_pred: (B, n, C).
            dir_cls_preds: (B, n, 2), or None.
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
            cls_score.reshape(-1, self.num_classes),
            bbox_pred.reshape(-1, self.box_code_size),
            dir_cls_preds.reshape(-1, 2) if dir_cls_preds is not None else None,
            (labels, label_weights, bbox_targets, bbox_weights, dir_targets, dir_weights),
            num_total_samples,
        )

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
        """Predict boxes from the outputs of `forward`: see `forward_single` for their shapes."""
        priors = [torch.cat(self.prior_generator.grid_anchors(self.featmap_sizes, device=cls_scores[0].device)[0])]
        return [
            self._predict_by_feat_single(
                [level[i] for level in cls_scores],
                [level[i] for level in bbox_preds],
                [None if level is None else level[i] for level in dir_cls_preds],
                priors,
                meta,
                cfg,
                rescale,
                **kwargs,
            )
            for i, meta in enumerate(batch_input_metas)
        ]

    @override
    def _predict_by_feat_single(
        self,
        cls_score_list: Sequence[Tensor],
        bbox_pred_list: Sequence[Tensor],
        dir_cls_pred_list: Sequence[Tensor | None],
        mlvl_priors: Sequence[Tensor],
        input_meta: Mapping[str, Any],
        cfg: HeadCfg | None = None,
        rescale: bool = False,
        **kwargs: Any,
    ) -> InstanceData:
        """Predict the boxes of one frame from (n, ...) rows of the only level."""
        cfg = self.test_cfg if cfg is None else cfg
        logits = upcast_half(cls_score_list[0])
        best = self._best_anchors(logits[None], cfg)[0]
        boxes = self.bbox_coder.decode(mlvl_priors[0][best], upcast_half(bbox_pred_list[0][best]))
        directions = dir_cls_pred_list[0]
        bins = torch.zeros_like(best) if directions is None else directions[best].argmax(dim=1)
        return self._select_boxes(boxes, logits[best].sigmoid(), bins, input_meta.get("box_type_3d"), cfg)
