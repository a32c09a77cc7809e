"""`KittiDataset`: KITTI's object frames, with boxes converted from the camera frame to the LiDAR frame."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from raydet3d.data.dataset import Det3DDataset
from raydet3d.data.datasets.kitti_io import KITTI_CATEGORIES, camera_to_lidar
from raydet3d.data.pipeline import Sample
from raydet3d.errors import InputError
from raydet3d.info_file import FrameInfo
from raydet3d.registry import DATASETS
from raydet3d.structures import Box3DMode


@DATASETS.register_module()
class KittiDataset(Det3DDataset):
    """KITTI 3D object detection, or anything in its layout.

    Info files are those of `python -m raydet3d.data.prepare kitti`, or MMDetection3D's (v2; v1 is converted as it is
    read). `sample_idx` is the number of the frame. Arguments are those of `Det3DDataset`.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": KITTI_CATEGORIES,
        "palette": (
            *((106, 0, 228), (119, 11, 32), (165, 42, 42), (0, 0, 192)),
            *((197, 226, 255), (0, 60, 100), (0, 0, 142), (255, 77, 255)),
        ),
    }
    DEFAULT_CAM_KEY: ClassVar[str | None] = "CAM2"
    HINT: ClassVar[str] = (
        "put KITTI's object data there (training/{{velodyne,label_2,calib,image_2}}, ImageSets) "
        "and run 'python -m raydet3d.data.prepare kitti {root}'"
    )

    @override
    def parse_data_info(self, info: FrameInfo) -> Sample | list[Sample]:
        sample = super().parse_data_info(info)
        if isinstance(sample, dict) and info.get("plane") is not None:
            # A plane n.x + d = 0 in the camera frame, with x_cam = M x_lidar, is (n, d) M in the LiDAR frame.
            sample["plane"] = np.asarray(info["plane"], dtype=np.float64) @ self._lidar2cam(info)
        return sample

    @override
    def parse_ann_info(self, info: FrameInfo) -> dict[str, Any]:
        annotation = super().parse_ann_info(info)
        boxes = annotation["gt_bboxes_3d"]
        if self.box_mode_3d == Box3DMode.LIDAR:
            # In float64, so that only the last step rounds to float32.
            boxes = camera_to_lidar(boxes.astype(np.float64), self._lidar2cam(info)).astype(np.float32)
        elif self.box_mode_3d != Box3DMode.CAM:
            raise InputError(f"{type(self).__name__}: box_type_3d must be LiDAR or Camera")
        annotation["gt_bboxes_3d"] = boxes
        return annotation

    def _lidar2cam(self, info: FrameInfo) -> NDArray[np.float64]:
        return np.asarray(info["images"][str(self.default_cam_key)]["lidar2cam"], dtype=np.float64)
