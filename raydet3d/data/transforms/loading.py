"""Load points and annotations into a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from raydet3d.config import PartCfg
from raydet3d.data.pipeline import Sample, Transform
from raydet3d.data.point_cloud_file import read_cloud
from raydet3d.errors import InputError
from raydet3d.info_file import check_backend
from raydet3d.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadPointsFromFile(Transform):
    """Read a point cloud of float32 numbers into `points`, (N, C).

    Args:
        coord_type: Frame of the cloud: LIDAR, DEPTH or CAMERA. The other transforms here expect the LiDAR frame.
        load_dim: Numbers of a point in the file.
        use_dim: How many of them to keep from the front, or which.
        shift_height: Must be false; indoor data is not supported.
        use_color: Must be false; indoor data is not supported.
        norm_intensity: Apply tanh to the fourth number.
        norm_elongation: Apply tanh to the fifth number.
        backend_args: Where files are; None or the local disk.
    """

    def __init__(
        self,
        coord_type: str = "LIDAR",
        load_dim: int = 6,
        use_dim: int | Sequence[int] = (0, 1, 2),
        shift_height: bool = False,
        use_color: bool = False,
        norm_intensity: bool = False,
        norm_elongation: bool = False,
        backend_args: PartCfg | None = None,
    ) -> None:
        check_backend(backend_args)
        if coord_type not in ("LIDAR", "DEPTH", "CAMERA"):
            raise InputError(f"LoadPointsFromFile: coord_type is {coord_type!r}; known: LIDAR, DEPTH, CAMERA")
        for name, asked in (("shift_height", shift_height), ("use_color", use_color)):
            if asked:
                raise InputError(f"LoadPointsFromFile: {name}=True is for indoor data, which is not read here")
        self.coord_type = coord_type
        self.load_dim = load_dim
        self.use_dim = list(range(use_dim)) if isinstance(use_dim, int) else [int(dim) for dim in use_dim]
        if not self.use_dim or not 0 <= min(self.use_dim) <= max(self.use_dim) < load_dim:
            raise InputError(f"LoadPointsFromFile: use_dim={use_dim!r} asks for more than load_dim={load_dim} numbers")
        self.norm_intensity = norm_intensity
        self.norm_elongation = norm_elongation
        for name, least in (("norm_intensity", 4), ("norm_elongation", 5)):
            if getattr(self, name) and len(self.use_dim) < least:
                raise InputError(f"LoadPointsFromFile: {name} needs use_dim to keep at least {least} numbers")

    def read(self, path: str) -> NDArray[np.float32]:
        """Return the (N, load_dim) points of a file; for subclasses."""
        return read_cloud(path, channels=self.load_dim)

    def transform(self, results: Sample) -> Sample:
        """Set `points` from the file at `lidar_path`."""
        path = results["lidar_path"] if "lidar_path" in results else results["lidar_points"]["lidar_path"]
        results["points"] = self._prepare(self.read(path))
        return results

    def _prepare(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the wanted columns of (N, load_dim) points, normalized."""
        if self.use_dim != list(range(self.load_dim)):
            points = np.ascontiguousarray(points[:, self.use_dim])
        if self.norm_intensity:
            points[:, 3] = np.tanh(points[:, 3])
        if self.norm_elongation:
            points[:, 4] = np.tanh(points[:, 4])
        return points


@TRANSFORMS.register_module()
class LoadPointsFromDict(LoadPointsFromFile):
    """Take points that are in the sample already; arguments are those of `LoadPointsFromFile`."""

    @override
    def transform(self, results: Sample) -> Sample:
        points = np.array(results["points"], dtype=np.float32)  # a copy: the transforms after this one work in place
        if points.ndim != 2 or points.shape[1] != self.load_dim:
            raise InputError(
                f"LoadPointsFromDict: points must be (N, {self.load_dim}), as load_dim says, got {points.shape}"
            )
        results["points"] = self._prepare(points)
        return results


# Argument of LoadAnnotations3D -> keys of ann_info.
_FIELDS = {
    "with_bbox_3d": ("gt_bboxes_3d",),
    "with_label_3d": ("gt_labels_3d",),
    "with_attr_label": ("attr_labels",),
    "with_bbox": ("gt_bboxes",),
    "with_label": ("gt_bboxes_labels",),
    "with_bbox_depth": ("depths", "centers_2d"),
}


@TRANSFORMS.register_module()
class LoadAnnotations3D(Transform):
    """Copy ground truth from `ann_info` into the sample.

    Args:
        with_bbox_3d: `gt_bboxes_3d`.
        with_label_3d: `gt_labels_3d`.
        with_attr_label: `attr_labels`.
        with_bbox: `gt_bboxes`, the boxes in the image.
        with_label: `gt_bboxes_labels`.
        with_bbox_depth: `depths` and `centers_2d`.
        backend_args: Where files are; None or the local disk.
    """

    def __init__(
        self,
        with_bbox_3d: bool = True,
        with_label_3d: bool = True,
        with_attr_label: bool = False,
        with_bbox: bool = False,
        with_label: bool = False,
        with_bbox_depth: bool = False,
        backend_args: PartCfg | None = None,
    ) -> None:
        check_backend(backend_args)
        wanted = {
            "with_bbox_3d": with_bbox_3d,
            "with_label_3d": with_label_3d,
            "with_attr_label": with_attr_label,
            "with_bbox": with_bbox,
            "with_label": with_label,
            "with_bbox_depth": with_bbox_depth,
        }
        self.fields = [field for name, fields in _FIELDS.items() if wanted[name] for field in fields]

    def transform(self, results: Sample) -> Sample:
        """Copy the fields from `ann_info`."""
        annotation = results.get("ann_info")
        if annotation is None:
            raise InputError(
                f"LoadAnnotations3D: sample {results.get('sample_idx')} has no annotation; test pipelines leave it out"
            )
        for field in self.fields:
            if field not in annotation:
                raise InputError(f"LoadAnnotations3D: the info file gives no {field!r} for {results.get('sample_idx')}")
            results[field] = annotation[field]
        if "gt_bboxes_3d" in self.fields:
            results.setdefault("bbox3d_fields", []).append("gt_bboxes_3d")
        return results
