"""Settings of the anchor heads: `train_cfg` and `test_cfg`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydet3d.models.dense_heads.base import HeadCfg


@dataclass(frozen=True)
class AnchorHeadTrainCfg(HeadCfg):
    """Settings of `train_cfg`.

    Attributes:
        assigner: One per size of anchor, or one for all.
        sampler: Which assigned anchors take part; all by default.
        allowed_border: Accepted for published configs; no anchor is outside of the map.
        pos_weight: Weight of positive anchors in the classification loss; 1 if it is not positive.
        code_weight: Weight of each number of a box in its loss.
        debug: Accepted for published configs.
    """

    assigner: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    sampler: Mapping[str, Any] | None = None
    allowed_border: int = 0
    pos_weight: float = -1
    code_weight: Sequence[float] | None = None
    debug: bool = False


@dataclass(frozen=True)
class AnchorHeadTestCfg(HeadCfg):
    """Settings of `test_cfg`.

    Attributes:
        use_rotate_nms: Suppress by rotated IoU; False uses the IoU of the boxes without their yaws.
        nms_across_levels: Only False is supported.
        nms_thr: IoU above which a box is suppressed by a better one of its class.
        score_thr: Boxes of a lower score are dropped.
        min_bbox_size: Accepted for published configs.
        nms_pre: Number of anchors that are decoded, best first; all if it is not positive.
        max_num: Maximum number of boxes of a frame.
    """

    use_rotate_nms: bool = True
    nms_across_levels: bool = False
    nms_thr: float = 0.01
    score_thr: float = 0.1
    min_bbox_size: float = 0
    nms_pre: int = 100
    max_num: int = 50
