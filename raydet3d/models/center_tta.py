"""`CenterPointTTAModel`: test-time augmentation of CenterPoint by flips and scales.

The maps of flipped views of one scale are flipped back and averaged before the boxes are decoded; the boxes of several
scales are put together and suppressed class by class.
Source: CenterPoint (Yin et al. 2021), section 6 ("double flip").

Shapes: B batch, C channels, H and W size of the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.dense_heads.center_head import CenterHead
from raydet3d.models.module import ConfigType
from raydet3d.models.tta import BaseTTAModel, Views, split_views
from raydet3d.ops import nms_rotated, upcast_half
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample, InstanceData

Maps = dict[str, Tensor]


@dataclass(frozen=True)
class View:
    """How a view was made.

    Attributes:
        scale: Factor on the points.
        flips_y: Whether y was negated (a horizontal flip).
        flips_x: Whether x was negated (a vertical flip).
    """

    scale: float
    flips_y: bool
    flips_x: bool

    @classmethod
    def of_sample(cls, sample: Det3DDataSample) -> View:
        """Read the meta information of a sample."""
        meta = sample.metainfo
        return cls(
            float(meta.get("pcd_scale_factor", 1.0)),
            bool(meta.get("pcd_horizontal_flip", False)),
            bool(meta.get("pcd_vertical_flip", False)),
        )


@MODELS.register_module()
class CenterPointTTAModel(BaseTTAModel):
    """Predicts on every view and merges them, for a detector whose `pts_bbox_head` is a `CenterHead`.

    Args:
        module: The detector, or its config.
        nms_thr: IoU above which a box of one scale suppresses one of another, of the same class.
        max_num: Maximum number of boxes of a frame where there are several scales.
        data_preprocessor: Added to the config.
    """

    def __init__(
        self,
        module: nn.Module | ConfigType,
        nms_thr: float = 0.2,
        max_num: int = 500,
        data_preprocessor: ConfigType | nn.Module | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.nms_thr = nms_thr
        self.max_num = max_num
        if not isinstance(getattr(self.module, "pts_bbox_head", None), CenterHead):
            raise InputError("CenterPointTTAModel: module needs a CenterHead as pts_bbox_head")

    @override
    @torch.no_grad()
    def test_step(self, data: Views) -> list[Det3DDataSample]:
        head: CenterHead = self.module.pts_bbox_head
        by_scale: dict[float, list[list[list[Maps]]]] = {}
        seen: set[View] = set()
        samples: list[Det3DDataSample] = []
        for batch in split_views(data):
            given = self.module.data_preprocessor(batch, False)
            view = View.of_sample(given["data_samples"][0])
            if view in seen:  # image flips make further views of the same points
                continue
            seen.add(view)
            samples = samples or list(given["data_samples"])
            outs = self.module(given["inputs"], given["data_samples"], mode="tensor")
            maps = [[unflip(level, view) for level in task] for task in outs]
            by_scale.setdefault(view.scale, []).append(maps)
        per_scale = []
        for scale, views in by_scale.items():
            merged = [
                [average([view[t][i] for view in views]) for i in range(len(views[0][t]))] for t in range(len(views[0]))
            ]
            found = head.predict_by_feat(merged, [sample.metainfo for sample in samples])
            for frame in found:
                frame.bboxes_3d.scale(1 / scale)
            per_scale.append(found)
        frames = [list(scales) for scales in zip(*per_scale, strict=True)]
        merged_frames = [scales[0] if len(scales) == 1 else self.merge_scales(scales) for scales in frames]
        result: list[Det3DDataSample] = self.module.add_pred_to_datasample(samples, merged_frames)
        return result

    def merge_scales(self, scales: Sequence[InstanceData]) -> InstanceData:
        """Put the boxes of several scales of a frame together and suppress them class by class."""
        boxes = type(scales[0].bboxes_3d).cat([one.bboxes_3d for one in scales])
        scores = torch.cat([one.scores_3d for one in scales])
        labels = torch.cat([one.labels_3d for one in scales])
        kept = []
        for label in labels.unique().tolist():
            own = (labels == label).nonzero().squeeze(1)
            kept.append(own[nms_rotated(boxes.bev[own], scores[own], self.nms_thr)])
        index = torch.cat(kept) if kept else labels[:0]
        index = index[scores[index].argsort(descending=True, stable=True)][: self.max_num]
        return InstanceData(bboxes_3d=boxes[index], scores_3d=scores[index], labels_3d=labels[index])


def unflip(maps: Mapping[str, Tensor], view: View) -> Maps:
    """Flip the maps of a view back.

    Args:
        maps: (B, C, H, W) maps of a task: y along H, x along W.
        view: How the view was made.
    """
    out = {name: upcast_half(value) for name, value in maps.items()}
    for flips, axis, component in ((view.flips_y, 2, 1), (view.flips_x, 3, 0)):
        if not flips:
            continue
        out = {name: value.flip(axis) for name, value in out.items()}
        out["reg"] = _with_channel(out["reg"], component, 1 - out["reg"][:, component])
        # The sine changes its sign with y, the cosine with x.
        out["rot"] = _with_channel(out["rot"], 1 - component, -out["rot"][:, 1 - component])
        if "vel" in out:
            out["vel"] = _with_channel(out["vel"], component, -out["vel"][:, component])
    return out


def average(views: Sequence[Mapping[str, Tensor]]) -> Maps:
    """Average maps: heat maps as probabilities, sizes as they are decoded, all others as they are."""
    out: Maps = {}
    for name in views[0]:
        values = torch.stack([view[name] for view in views])
        if name == "heatmap":
            out[name] = torch.logit(values.sigmoid().mean(0))
        else:
            out[name] = values.exp().mean(0).log() if name == "dim" else values.mean(0)
    return out


def _with_channel(value: Tensor, channel: int, content: Tensor) -> Tensor:
    """Return a map with another (B, H, W) channel."""
    channels = list(value.unbind(1))
    channels[channel] = content
    return torch.stack(channels, dim=1)
