"""Types of plain data that the packages exchange: calibration, and data samples as nested dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    from raydet3d.structures.boxes import Boxes3D

ArrayLike: TypeAlias = npt.ArrayLike | Tensor
"""Numbers as a tensor, an array or nested sequences."""


class CameraMatrices(TypedDict, total=False):
    """Calibration of a frame: one matrix, or one for each camera."""

    lidar2img: ArrayLike | Sequence[ArrayLike]
    cam2img: ArrayLike | Sequence[ArrayLike]
    lidar2cam: ArrayLike | Sequence[ArrayLike]


class SampleMeta(CameraMatrices, total=False):
    """Meta information of a data sample, as far as its keys have a meaning; others are allowed."""

    sample_idx: int | str
    box_type_3d: type[Boxes3D]
    lidar_path: str
    num_pts_feats: int


class PlainInstances(TypedDict, total=False):
    """Fields of `gt_instances_3d` and `pred_instances_3d`."""

    bboxes_3d: Boxes3D
    labels_3d: ArrayLike
    scores_3d: ArrayLike


class PlainAnnotation(TypedDict, total=False):
    """Fields of `eval_ann_info` that are drawn or scored."""

    gt_bboxes_3d: Boxes3D
    gt_labels_3d: ArrayLike
    num_lidar_pts: ArrayLike
    pts_semantic_mask: ArrayLike


class PlainSample(CameraMatrices, total=False):
    """A `Det3DDataSample` as nested dicts, as far as its fields have a meaning; others are allowed."""

    sample_idx: int | str
    img_path: str | Path | Sequence[str | Path]
    gt_instances_3d: PlainInstances
    pred_instances_3d: PlainInstances
    pred_instances: Mapping[str, ArrayLike]
    eval_ann_info: PlainAnnotation
    gt_pts_seg: PlainAnnotation
    pred_pts_seg: PlainAnnotation
