"""`NuScenesDataset`: nuScenes keyframes with their sweeps, boxes with velocities in the LiDAR frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from raydet3d.config import ConfigValue
from raydet3d.data.dataset import Det3DDataset
from raydet3d.data.datasets.nuscenes_categories import NUSCENES_CATEGORIES
from raydet3d.data.pipeline import Sample
from raydet3d.errors import InputError
from raydet3d.info_file import FrameInfo
from raydet3d.registry import DATASETS
from raydet3d.structures import Box3DMode, LiDARInstance3DBoxes


@DATASETS.register_module()
class NuScenesDataset(Det3DDataset):
    """nuScenes 3D object detection, or anything in its layout.

    Info files are those of `python -m raydet3d.data.prepare nuscenes`, or MMDetection3D's (v2; v1 is converted as it
    is read). The info file says which version of the data it describes, unless `metainfo` does. Objects of categories
    that are not trained are left out.

    Args:
        data_root: Folder of the data set.
        ann_file: Info file, relative to `data_root`.
        pipeline: Configs of the transforms.
        box_type_3d: Frame of the boxes: LiDAR, or Camera.
        load_type: Accepted when it is `frame_based`.
        modality: `use_lidar`, `use_camera`: which sensors the pipeline may ask for.
        filter_empty_gt: Replace training samples without objects.
        test_mode: Annotations go to `eval_ann_info`, nothing is replaced.
        with_velocity: Append vx, vy (metres a second) to the boxes; a velocity that is not known is 0.
        use_valid_flag: Keep the objects that a LiDAR or radar point lies on, instead of those with a LiDAR point.
        **kwargs: Arguments of `Det3DDataset`. `data_prefix` has `pts` for keyframes and `sweeps` for the other sweeps.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": NUSCENES_CATEGORIES,
        "version": "v1.0-trainval",
        "palette": (
            *((255, 158, 0), (255, 99, 71), (255, 140, 0), (255, 127, 80), (233, 150, 70)),
            *((220, 20, 60), (255, 61, 99), (0, 0, 230), (47, 79, 79), (112, 128, 144)),
        ),
    }
    HINT: ClassVar[str] = (
        "put nuScenes there (samples, sweeps, v1.0-trainval) "
        "and run 'python -m raydet3d.data.prepare nuscenes {root} --version v1.0-trainval'"
    )

    def __init__(
        self,
        data_root: str = "",
        ann_file: str = "",
        pipeline: Sequence[Mapping[str, Any] | Callable[[Any], Any]] = (),
        box_type_3d: str = "LiDAR",
        load_type: str = "frame_based",
        modality: Mapping[str, bool] | None = None,
        filter_empty_gt: bool = True,
        test_mode: bool = False,
        with_velocity: bool = True,
        use_valid_flag: bool = False,
        **kwargs: Any,
    ) -> None:
        if box_type_3d.lower() not in ("lidar", "camera"):
            raise InputError(f"{type(self).__name__}: box_type_3d must be LiDAR or Camera, got {box_type_3d!r}")
        self.with_velocity = with_velocity
        self.use_valid_flag = use_valid_flag
        self._has_own_version = "version" in (kwargs.get("metainfo") or {})
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            pipeline=pipeline,
            box_type_3d=box_type_3d,
            load_type=load_type,
            modality=modality,
            filter_empty_gt=filter_empty_gt,
            test_mode=test_mode,
            **kwargs,
        )

    @override
    def _add_metainfo(self, found: Mapping[str, ConfigValue]) -> None:
        if not self._has_own_version:
            self._metainfo.pop("version", None)  # the info file's comes instead
        super()._add_metainfo(found)
        self._metainfo.setdefault("version", self.METAINFO["version"])

    def _filter_with_mask(self, ann_info: Sample) -> Sample:
        """Return the annotation without objects that no LiDAR point (with `use_valid_flag`: or radar point) lies on."""
        key = "bbox_3d_isvalid" if self.use_valid_flag else "num_lidar_pts"
        if key not in ann_info:
            if not len(ann_info["gt_labels_3d"]):
                return ann_info
            raise InputError(
                f"{self.ann_file}: instances have no {key!r}, which use_valid_flag={self.use_valid_flag} reads"
            )
        keep = ann_info[key].astype(bool) if self.use_valid_flag else ann_info[key] > 0
        return {name: column[keep] for name, column in ann_info.items()}

    @override
    def parse_ann_info(self, info: FrameInfo) -> dict[str, Any]:
        annotation = self._filter_with_mask(super().parse_ann_info(info))
        boxes = annotation["gt_bboxes_3d"]
        if self.with_velocity:
            velocities = annotation.get("velocities")
            if velocities is None:
                if len(boxes):
                    raise InputError(f"{self.ann_file}: instances have no 'velocity'; set with_velocity=False")
                velocities = np.zeros((0, 2), np.float32)
            velocities[np.isnan(velocities[:, 0])] = 0
            boxes = np.concatenate([boxes, velocities], axis=-1)
        in_lidar = LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[-1], origin=(0.5, 0.5, 0.5))
        is_lidar = self.box_mode_3d == Box3DMode.LIDAR
        annotation["gt_bboxes_3d"] = in_lidar if is_lidar else in_lidar.convert_to(self.box_mode_3d)
        return annotation
