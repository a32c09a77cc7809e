"""`CustomDataset`: own recordings, prepared by `python -m raydet3d.data.prepare custom ROOT`."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np
from typing_extensions import override

from raydet3d.data.dataset import Det3DDataset, Det3DDatasetArguments
from raydet3d.data.paths import inside
from raydet3d.data.pipeline import Sample
from raydet3d.errors import InputError
from raydet3d.info_file import FrameInfo, InfoRecord
from raydet3d.registry import DATASETS


@DATASETS.register_module()
class CustomDataset(Det3DDataset):
    """Own recordings: classes, colours and sizes are those of the folder's `dataset.json`, unless `metainfo` has some.

    Boxes in the info file are in the LiDAR frame (bottom centre). Paths in it are relative to `data_root`, so that
    `data_prefix` is not needed. `metainfo` has `classes`, `palette` (colours in their order) and `sizes` (typical
    length, width, height by class). `sample_idx` is the name of the frame.

    Args:
        ann_file: Info file, relative to `data_root`.
        data_root: Folder of the data set.
        with_velocity: Append vx, vy (metres a second) to the boxes; a velocity that is not known is 0.
        min_points: Leave out objects with fewer LiDAR points in training; in test mode all are kept.
        **kwargs: Arguments of `Det3DDataset`.
    """

    METAINFO: ClassVar[dict[str, Any]] = {}
    HINT: ClassVar[str] = "run 'python -m raydet3d.data.prepare custom {root}'; the page own_data describes the layout"

    def __init__(
        self,
        ann_file: str = "",
        data_root: str = "",
        *,
        with_velocity: bool = False,
        min_points: int = 0,
        **kwargs: Unpack[Det3DDatasetArguments],
    ) -> None:
        self.with_velocity = with_velocity
        self.min_points = min_points
        super().__init__(ann_file, data_root, **kwargs)

    @override
    def load_data_list(self) -> list[Sample]:
        own = "palette" in self._metainfo
        frames = super().load_data_list()
        palette, categories = self._metainfo.get("palette"), self._metainfo.get("categories")
        if palette is not None and categories and not own:
            # The info file has a colour for each of its classes, in its order.
            color = dict(zip((name for name, number in categories.items() if number >= 0), palette, strict=False))
            self._metainfo["palette"] = tuple(color[name] for name in self._metainfo["classes"] if name in color)
        self._check_columns(frames)
        return frames

    def _check_columns(self, frames: list[Sample]) -> None:
        """Refuse a pipeline that reads other numbers of a point than the prepared clouds have."""
        held = next((frame["num_pts_feats"] for frame in frames if frame.get("num_pts_feats")), None)
        for transform in self.pipeline.transforms:
            asked = getattr(transform, "load_dim", held)
            if held is not None and asked != held:
                names = ", ".join(self._metainfo.get("features", ()))
                raise InputError(
                    f"{type(transform).__name__}: load_dim={asked}, but the clouds of {self.ann_file} have {held} "
                    f"numbers a point ({names}); set load_dim={held}, or features in dataset.json"
                )

    @override
    def parse_data_info(self, info: FrameInfo) -> Sample | list[Sample]:
        if self.default_cam_key is None and info.get("images"):
            self.default_cam_key = next(iter(info["images"]))
        sample = super().parse_data_info(info)
        camera = (info.get("images") or {}).get(str(self.default_cam_key), {})
        if isinstance(sample, dict) and camera.get("img_path") and "img" not in self.data_prefix:
            sample["img_path"] = inside(self.data_root, str(camera["img_path"]), source=self.ann_file)
        return sample

    @override
    def _parse_sweep(self, sweep: InfoRecord) -> Sample:
        points = dict(sweep["lidar_points"])
        points["lidar_path"] = inside(self._folder("pts"), str(points["lidar_path"]), source=self.ann_file)
        return {**sweep, "lidar_points": points}

    @override
    def parse_ann_info(self, info: FrameInfo) -> dict[str, Any]:
        annotation = super().parse_ann_info(info)
        if not self.test_mode and self.min_points and "num_lidar_pts" in annotation:
            keep = annotation["num_lidar_pts"] >= self.min_points
            annotation = {name: column[keep] for name, column in annotation.items() if len(column) == len(keep)}
        if self.with_velocity:
            boxes = annotation["gt_bboxes_3d"]
            velocities = annotation.get("velocities", np.zeros((len(boxes), 2), np.float32))
            annotation["gt_bboxes_3d"] = np.concatenate([boxes, np.nan_to_num(velocities)], axis=-1)
        return annotation
