"""Settings of the centre head: `train_cfg` and `test_cfg`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydet3d.models.dense_heads.base import HeadCfg


@dataclass(frozen=True)
class CenterHeadTrainCfg(HeadCfg):
    """Settings of `train_cfg`.

    Attributes:
        grid_size: Voxels along x, y and z.
        voxel_size: Along x, y (and z); metres.
        out_size_factor: Voxels along a cell of the map.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        dense_reg: Factor on `max_objs`.
        gaussian_overlap: Overlap that the radius of a Gaussian keeps.
        max_objs: Maximum number of objects of a task.
        min_radius: Smallest radius of a Gaussian; cells.
        code_weights: Weight of each number of an encoded box in its loss; 1 by default.
    """

    grid_size: Sequence[int]
    voxel_size: Sequence[float]
    out_size_factor: int
    point_cloud_range: Sequence[float]
    dense_reg: int = 1
    gaussian_overlap: float = 0.1
    max_objs: int = 500
    min_radius: int = 2
    code_weights: Sequence[float] | None = None


@dataclass(frozen=True)
class CenterHeadTestCfg(HeadCfg):
    """Settings of `test_cfg`.

    Attributes:
        post_center_limit_range: x, y, z of the lower and of the upper corner that centres must lie in; empty for all.
        score_threshold: Lower scores are dropped.
        nms_type: "rotate": by rotated IoU; "circle": by the distance of the centres.
        min_radius: **Squared** distance of `nms_type="circle"`, for each task.
        nms_thr: IoU of `nms_type="rotate"`.
        pre_max_size: Number of best boxes of a task that take part in `nms_type="rotate"`.
        post_max_size: Maximum number of boxes of a task.
        pc_range: Accepted for published configs, like the rest: `bbox_coder` has these settings.
        out_size_factor: See `pc_range`.
        voxel_size: See `pc_range`.
        max_per_img: See `pc_range`.
        max_pool_nms: See `pc_range`.
        use_rotate_nms: See `pc_range`.
        max_num: See `pc_range`.
    """

    post_center_limit_range: Sequence[float] = ()
    score_threshold: float = 0.0
    nms_type: str = "rotate"
    min_radius: Sequence[float] = ()
    nms_thr: float = 0.2
    pre_max_size: int = 1000
    post_max_size: int = 83
    pc_range: Sequence[float] = ()
    out_size_factor: int = 1
    voxel_size: Sequence[float] = ()
    max_per_img: int = 500
    max_pool_nms: bool = False
    use_rotate_nms: bool = True
    max_num: int = 500
