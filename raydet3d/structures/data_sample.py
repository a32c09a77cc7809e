"""`Det3DDataSample`: ground truth, predictions and meta information of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydet3d.structures.data_element import DataElement


class Det3DDataSample(DataElement):
    """Data of one frame beside its points, from the data set through the model to the metric.

    Any field is allowed; these have a meaning:

    * `gt_instances_3d`: `InstanceData` with `bboxes_3d` and `labels_3d`; `gt_instances`: their 2D boxes;
    * `pred_instances_3d`: `InstanceData` with `bboxes_3d`, `scores_3d` and `labels_3d`; `pred_instances`: 2D;
    * `gt_pts_seg`, `pred_pts_seg`: labels of the points;
    * `eval_ann_info`: the annotation for the metric, a dict.

    Meta keys (`sample_idx`, `lidar_path`, `lidar2img`, ...) are read as attributes too.

    Args:
        metainfo: Information about the frame.
        **fields: Initial data fields.
    """

    def __init__(self, metainfo: Mapping[str, Any] | None = None, **fields: Any) -> None:
        super().__init__(metainfo=metainfo, **fields)

    def __getitem__(self, name: str) -> Any:
        """Return a field or a meta value by its name."""
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(str(error)) from None
