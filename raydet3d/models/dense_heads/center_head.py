"""`CenterHead`: heat maps of object centres and the boxes at their peaks; targets, losses and predictions.

Shapes: B batch, C classes of a task, H and W size of the map, M maximum number of objects of a task, E numbers of an
encoded box (10 with velocity, 8 without), n boxes.
Source: CenterPoint (Yin et al. 2021), section 4.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.dense_heads.base import Base3DDenseHead, Losses
from raydet3d.models.dense_heads.center_head_cfg import CenterHeadTestCfg, CenterHeadTrainCfg
from raydet3d.models.dense_heads.center_targets import make_center_targets
from raydet3d.models.layers.conv_module import ConvModule
from raydet3d.models.module import ConfigType, InitCfg, ModuleList
from raydet3d.models.task_modules.center_box_coder import CenterPointBBoxCoder
from raydet3d.ops import clip_sigmoid, nms_circle, nms_rotated, upcast_half
from raydet3d.registry import MODELS, TASK_UTILS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes

TaskMaps = Sequence[dict[str, Tensor]]
"""The maps of one task, by name, of each level."""

Metas = Sequence[ConfigType]

_HEATMAP_LOSS = {"type": "GaussianFocalLoss", "reduction": "mean"}
_BOX_LOSS = {"type": "L1Loss", "reduction": "none", "loss_weight": 0.25}
_SEPARATE_HEAD = {"type": "SeparateHead", "init_bias": -2.19, "final_kernel": 3}
_CONV = {"type": "Conv2d"}
_NORM = {"type": "BN2d"}
_REGRESSIONS = ("reg", "height", "dim", "rot", "vel")


@MODELS.register_module()
class CenterHead(Base3DDenseHead):
    """Centre head on one bird's-eye-view map, with one `SeparateHead` for each group of classes.

    Without `vel` in `common_heads` boxes have no velocity.

    Args:
        in_channels: Channels of the map.
        tasks: For each group of classes `class_names` (and `num_class`).
        bbox_coder: Box coder.
        common_heads: Channels and number of convolutions of `reg`, `height`, `dim`, `rot` and `vel`.
        loss_cls: Loss of the heat maps.
        loss_bbox: Loss of the encoded boxes.
        separate_head: Head of a task.
        share_conv_channel: Channels of the shared map.
        num_heatmap_convs: Number of convolutions of a heat map.
        conv_cfg: Shared convolution.
        norm_cfg: Normalization after it.
        bias: "auto" for a bias where there is no normalization.
        norm_bbox: Predict the logarithms of the sizes.
        train_cfg: See `CenterHeadTrainCfg`; None for a head that only predicts.
        test_cfg: See `CenterHeadTestCfg`.
        init_cfg: Only None is supported.
    """

    def __init__(
        self,
        in_channels: int = 128,
        tasks: Sequence[ConfigType] | None = None,
        bbox_coder: ConfigType | None = None,
        common_heads: Mapping[str, Sequence[int]] = {},
        loss_cls: ConfigType = _HEATMAP_LOSS,
        loss_bbox: ConfigType = _BOX_LOSS,
        separate_head: ConfigType = _SEPARATE_HEAD,
        share_conv_channel: int = 64,
        num_heatmap_convs: int = 2,
        conv_cfg: ConfigType = _CONV,
        norm_cfg: ConfigType = _NORM,
        bias: bool | str = "auto",
        norm_bbox: bool = True,
        train_cfg: ConfigType | None = None,
        test_cfg: ConfigType | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if init_cfg is not None:
            raise InputError("CenterHead: init_cfg is not supported; separate_head has init_bias")
        super().__init__(None)
        if not tasks or bbox_coder is None:
            raise InputError("CenterHead needs tasks (lists of class_names) and a bbox_coder")
        missing = [name for name in _REGRESSIONS[:4] if name not in common_heads]
        if missing:
            raise InputError(f"CenterHead: common_heads needs {', '.join(missing)} beside {', '.join(common_heads)}")
        self.class_names = [list(task["class_names"]) for task in tasks]
        self.num_classes = [len(names) for names in self.class_names]
        self.num_anchor_per_locs = list(self.num_classes)
        self.in_channels = in_channels
        self.norm_bbox = norm_bbox
        self.with_velocity = "vel" in common_heads
        strict = type(self) is CenterHead
        self.train_cfg = CenterHeadTrainCfg.from_cfg(train_cfg, strict=strict) if train_cfg is not None else None
        self.test_cfg = CenterHeadTestCfg.from_cfg(test_cfg or {}, strict=strict)
        if self.test_cfg["nms_type"] not in ("rotate", "circle"):
            raise InputError(f"test_cfg.nms_type must be 'rotate' or 'circle', got {self.test_cfg['nms_type']!r}")
        self.loss_cls: nn.Module = MODELS.build(loss_cls)
        self.loss_bbox: nn.Module = MODELS.build(loss_bbox)
        self.bbox_coder: CenterPointBBoxCoder = TASK_UTILS.build(bbox_coder)
        expected = 9 if self.with_velocity else 7
        if getattr(self.bbox_coder, "code_size", expected) != expected:
            raise InputError(
                f"CenterHead: bbox_coder.code_size is {self.bbox_coder.code_size}, but boxes "
                f"{'with' if self.with_velocity else 'without'} vel in common_heads have {expected} numbers"
            )
        self.shared_conv = ConvModule(
            in_channels, share_conv_channel, kernel_size=3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=bias
        )
        self.task_heads = ModuleList()
        for classes in self.num_classes:
            heads = {**copy.deepcopy(dict(common_heads)), "heatmap": (classes, num_heatmap_convs)}
            self.task_heads.append(
                MODELS.build({**separate_head, "in_channels": share_conv_channel, "heads": heads, "num_cls": classes})
            )

    def forward_single(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Compute the maps of every task on one (B, in_channels, H, W) map."""
        shared = self.shared_conv(x)
        return [task(shared) for task in self.task_heads]

    @override
    def forward(self, feats: Sequence[Tensor]) -> tuple[list[dict[str, Tensor]], ...]:
        """Compute the maps of every task; for each task a list over the levels."""
        return tuple(list(levels) for levels in zip(*(self.forward_single(x) for x in feats), strict=True))

    # ------------------------------------------------------------------ targets

    def get_targets(
        self, batch_gt_instances_3d: Sequence[InstanceData]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Compute the targets of a batch.

        Args:
            batch_gt_instances_3d: `bboxes_3d` and `labels_3d` of each frame.

        Returns:
            For each task heat maps (B, C, H, W), encoded boxes (B, M, E), their cells y * W + x (B, M), and 1 where
            there is a box (B, M).
        """
        frames = [self.get_targets_single(truth) for truth in batch_gt_instances_3d]
        heatmaps, boxes, cells, masks = (
            [torch.stack(task) for task in zip(*parts, strict=True)] for parts in zip(*frames, strict=True)
        )
        return heatmaps, boxes, cells, masks

    @torch.no_grad()
    def get_targets_single(
        self, gt_instances_3d: InstanceData
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Compute the targets of one frame; four lists over the tasks, see `get_targets`."""
        if self.train_cfg is None:
            raise InputError("CenterHead: training needs a train_cfg")
        labels = torch.as_tensor(gt_instances_3d.labels_3d)
        boxes = gt_instances_3d.bboxes_3d
        rows = torch.cat((boxes.gravity_center, boxes.tensor[:, 3:]), dim=1).to(labels.device)
        if self.with_velocity and len(rows) and rows.shape[1] < 9:
            raise InputError(
                f"CenterHead: common_heads has vel, but boxes have {rows.shape[1]} numbers and no velocity; "
                "leave vel out, set code_size=7, and give code_weights 8 numbers"
            )
        if not len(rows):
            rows = rows.new_zeros(0, 9)
        targets = make_center_targets(
            rows,
            labels,
            self.num_classes,
            self.train_cfg,
            log_sizes=self.norm_bbox,
            with_velocity=self.with_velocity,
        )
        return targets.heatmaps, targets.boxes, targets.cells, targets.masks

    # ------------------------------------------------------------------ losses

    @override
    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[Det3DDataSample], **kwargs: object) -> Losses:
        return self.loss_by_feat(self(x), [sample.gt_instances_3d for sample in batch_data_samples])

    @override
    def loss_by_feat(
        self,
        preds_dicts: Sequence[TaskMaps],
        batch_gt_instances_3d: Sequence[InstanceData],
        *args: object,
        **kwargs: object,
    ) -> Losses:
        """Compute the losses of a batch from the outputs of `forward`.

        Args:
            preds_dicts: Maps of each task and level.
            batch_gt_instances_3d: `bboxes_3d` and `labels_3d` of each frame.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            `task{t}.loss_heatmap` and `task{t}.loss_bbox` of each task.
        """
        losses: Losses = {}
        targets = zip(preds_dicts, *self.get_targets(batch_gt_instances_3d), strict=True)
        for task, (levels, heatmap, boxes, cells, mask) in enumerate(targets):
            maps = levels[0]
            heat = clip_sigmoid(upcast_half(maps["heatmap"]))
            num_peaks = heatmap.eq(1).sum().clamp(min=1)
            losses[f"task{task}.loss_heatmap"] = self.loss_cls(heat, heatmap, avg_factor=num_peaks)
            predicted = self._gather_feat(self._regressions(maps), cells)  # (B, M, E)
            known = ~boxes.isnan()
            weight = mask[:, :, None] * known.float()
            code_weights = self.train_cfg.get("code_weights") if self.train_cfg is not None else None
            if code_weights is not None:
                weight = weight * weight.new_tensor(list(code_weights)[: boxes.shape[2]])
            losses[f"task{task}.loss_bbox"] = self.loss_bbox(
                upcast_half(predicted), boxes.masked_fill(~known, 0), weight, avg_factor=mask.float().sum() + 1e-4
            )
        return losses

    def _regressions(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Return all regressions of a task as (B, H * W, E)."""
        parts = [maps[name] for name in _REGRESSIONS if name in maps]
        return torch.cat(parts, dim=1).permute(0, 2, 3, 1).flatten(1, 2)

    def _gather_feat(self, feat: Tensor, ind: Tensor, mask: Tensor | None = None) -> Tensor:
        """Gather rows.

        Args:
            feat: (B, H * W, E).
            ind: (B, M) rows.
            mask: (B, M) booleans, which rows to keep; all by default.

        Returns:
            (B, M, E); with a mask (number of kept rows, E).
        """
        rows = feat.gather(1, ind[:, :, None].expand(-1, -1, feat.shape[2]))
        return rows if mask is None else rows[mask.bool()]

    # ------------------------------------------------------------------ predictions

    @override
    def predict(
        self,
        x: Sequence[Tensor],
        batch_data_samples: Sequence[Det3DDataSample],
        rescale: bool = True,
        **kwargs: object,
    ) -> list[InstanceData]:
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.predict_by_feat(self(x), metas, rescale=rescale, **kwargs)

    @override
    def predict_by_feat(
        self,
        preds_dicts: Sequence[TaskMaps],
        batch_input_metas: Metas = (),
        *args: object,
        **kwargs: object,
    ) -> list[InstanceData]:
        """Predict boxes from the outputs of `forward`.

        Args:
            preds_dicts: Maps of each task and level.
            batch_input_metas: Meta information of each frame; `box_type_3d` is the class of the boxes.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            `bboxes_3d`, `scores_3d` and `labels_3d` of each frame, task by task.
        """
        per_task = []
        for task, levels in enumerate(preds_dicts):
            decoded = self._decode(levels[0], task)
            if self.test_cfg["nms_type"] == "circle":
                per_task.append([self._suppress_by_distance(frame, task) for frame in decoded])
            else:
                per_task.append(
                    self.get_task_detections(
                        self.num_classes[task],
                        [frame["scores"] for frame in decoded],
                        [frame["bboxes"] for frame in decoded],
                        [frame["labels"] for frame in decoded],
                        batch_input_metas,
                    )
                )
        return [self._merge_tasks([task[i] for task in per_task], meta) for i, meta in enumerate(batch_input_metas)]

    def _decode(self, maps: Mapping[str, Tensor], task: int) -> list[dict[str, Tensor]]:
        """Decode the maps of one task."""
        maps = {name: upcast_half(one) for name, one in maps.items()}
        decoded: list[dict[str, Tensor]] = self.bbox_coder.decode(
            maps["heatmap"].sigmoid(),
            maps["rot"][:, 0:1],
            maps["rot"][:, 1:2],
            maps["height"],
            maps["dim"].exp() if self.norm_bbox else maps["dim"],
            maps.get("vel"),
            reg=maps["reg"],
            task_id=task,
        )
        return decoded

    def _suppress_by_distance(self, frame: Mapping[str, Tensor], task: int) -> dict[str, Tensor]:
        """Suppress the decoded boxes of a task in one frame by the distance of their centres."""
        radii = self.test_cfg["min_radius"]
        if len(radii) != len(self.num_classes):
            raise InputError(
                f"CenterHead: test_cfg.min_radius has one number for each of the {len(self.num_classes)} tasks, "
                f"got {len(radii)}"
            )
        kept = nms_circle(frame["bboxes"][:, :2], frame["scores"], radii[task], post_max=self.test_cfg["post_max_size"])
        return {key: values[kept] for key, values in frame.items()}

    def get_task_detections(
        self,
        num_class_with_bg: int,
        batch_cls_preds: Sequence[Tensor],
        batch_reg_preds: Sequence[Tensor],
        batch_cls_labels: Sequence[Tensor],
        img_metas: Metas,
    ) -> list[dict[str, Tensor]]:
        """Suppress the decoded boxes of a task by rotated IoU, all classes of the task together.

        Args:
            num_class_with_bg: Number of classes of the task.
            batch_cls_preds: (n,) scores of each frame.
            batch_reg_preds: (n, code_size) boxes around their centres of each frame.
            batch_cls_labels: (n,) classes in the task of each frame.
            img_metas: Meta information of each frame.

        Returns:
            `bboxes`, `scores` and `labels` of each frame, best first.
        """
        cfg = self.test_cfg
        results = []
        for scores, boxes, labels in zip(batch_cls_preds, batch_reg_preds, batch_cls_labels, strict=True):
            scores, labels = scores.reshape(-1), labels.long()
            if num_class_with_bg == 1:
                labels = torch.zeros_like(labels)
            if cfg["score_threshold"] > 0:
                known = (scores >= cfg["score_threshold"]).nonzero().squeeze(1)
                scores, boxes, labels = scores[known], boxes[known], labels[known]
            kept = nms_rotated(
                boxes[:, [0, 1, 3, 4, 6]],
                scores,
                cfg["nms_thr"],
                pre_max=cfg["pre_max_size"],
                post_max=cfg["post_max_size"],
            )
            scores, boxes, labels = scores[kept], boxes[kept], labels[kept]
            limits = boxes.new_tensor(list(cfg["post_center_limit_range"]))
            if len(limits):
                inside = (boxes[:, :3] >= limits[:3]).all(1) & (boxes[:, :3] <= limits[3:]).all(1)
                scores, boxes, labels = scores[inside], boxes[inside], labels[inside]
            results.append({"bboxes": boxes, "scores": scores, "labels": labels})
        return results

    def _merge_tasks(self, tasks: Sequence[Mapping[str, Tensor]], meta: ConfigType) -> InstanceData:
        """Put the boxes of all tasks of a frame together; classes are numbered through the tasks."""
        labels, first = [], 0
        for task, classes in zip(tasks, self.num_classes, strict=True):
            labels.append(task["labels"].long() + first)
            first += classes
        boxes = torch.cat([task["bboxes"] for task in tasks])
        bottom = boxes[:, 2:3] - boxes[:, 5:6] * 0.5
        boxes = torch.cat((boxes[:, :2], bottom, boxes[:, 3:]), dim=1)
        box_type = meta.get("box_type_3d")
        make = box_type if callable(box_type) else LiDARInstance3DBoxes
        return InstanceData(
            bboxes_3d=make(boxes, box_dim=boxes.shape[1]),
            scores_3d=torch.cat([task["scores"] for task in tasks]),
            labels_3d=torch.cat(labels),
        )
