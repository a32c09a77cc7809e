"""Pack a sample into tensors and a data sample; collate samples into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from raydet3d.data.pipeline import Sample, Transform
from raydet3d.errors import InputError
from raydet3d.registry import FUNCTIONS, TRANSFORMS
from raydet3d.structures import Det3DDataSample, InstanceData

T = TypeVar("T")

META_KEYS = (
    *("img_path", "ori_shape", "img_shape", "lidar2img", "depth2img", "cam2img", "pad_shape", "scale_factor", "flip"),
    *("pcd_horizontal_flip", "pcd_vertical_flip", "box_mode_3d", "box_type_3d", "img_norm_cfg", "num_pts_feats"),
    *("pcd_trans", "sample_idx", "pcd_scale_factor", "pcd_rotation", "pcd_rotation_angle", "lidar_path"),
    *("transformation_3d_flow", "trans_mat", "affine_aug", "sweep_img_metas", "ori_cam2img", "cam2global"),
    *("crop_offset", "img_crop_offset", "resize_img_shape", "lidar2cam", "ori_lidar2img", "num_ref_frames"),
    *("num_views", "ego2global", "axis_align_matrix"),
)
"""Meta information of a data sample, where the pipeline provides it."""

# Sample key -> field of gt_instances_3d, of gt_instances.
_FIELDS_3D = {
    "gt_bboxes_3d": "bboxes_3d",
    "gt_labels_3d": "labels_3d",
    "attr_labels": "attr_labels",
    "depths": "depths",
    "centers_2d": "centers_2d",
}
_FIELDS_2D = {"gt_bboxes": "bboxes", "gt_bboxes_labels": "labels"}


@TRANSFORMS.register_module()
class Pack3DDetInputs(Transform):
    """Pack model inputs into `inputs`, ground truth and meta information into a `Det3DDataSample`.

    Args:
        keys: Keys to pack: `points`, `voxels`, `gt_bboxes_3d`, `gt_labels_3d`, `gt_bboxes`, `gt_bboxes_labels`,
            `attr_labels`, `depths`, `centers_2d`. A key that the sample lacks is left out.
        meta_keys: Meta information to keep.
    """

    def __init__(self, keys: Sequence[str], meta_keys: Sequence[str] = META_KEYS) -> None:
        known = ("points", "voxels", *_FIELDS_3D, *_FIELDS_2D)
        for key in keys:
            if key not in known:
                raise InputError(f"Pack3DDetInputs: cannot pack {key!r}; known: {', '.join(known)}")
        self.keys = tuple(keys)
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: Sample | list[Sample]) -> Any:
        """Pack a sample, or each of a list of views; a list of one view becomes a sample."""
        if isinstance(results, list):
            packed = [self._pack(view) for view in results]
            return packed[0] if len(packed) == 1 else packed
        return self._pack(results)

    def _pack(self, results: Sample) -> Sample:
        sample = Det3DDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        inputs: dict[str, Any] = {}
        instances_3d, instances = InstanceData(), InstanceData()
        for key in self.keys:
            if key not in results:
                continue
            if key in ("points", "voxels"):
                inputs[key] = _tensor(results[key])
            elif key in _FIELDS_3D:
                instances_3d[_FIELDS_3D[key]] = _tensor(results[key])
            else:
                instances[_FIELDS_2D[key]] = _tensor(results[key])
        sample.gt_instances_3d = instances_3d
        sample.gt_instances = instances
        if "eval_ann_info" in results:
            sample.eval_ann_info = results["eval_ann_info"]
        return {"inputs": inputs, "data_samples": sample}


def _tensor(value: T) -> T | torch.Tensor:
    """Convert an array to a tensor; return boxes and tensors unchanged."""
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def to_tensor(data: torch.Tensor | NDArray[np.generic] | Sequence[float] | float) -> torch.Tensor:
    """Convert to a tensor as MMDetection3D does: arrays of float64 become float32, a number gets the shape (1,)."""
    if isinstance(data, torch.Tensor):
        return data
    if isinstance(data, np.ndarray):
        return torch.from_numpy(data.astype(np.float32) if data.dtype == np.float64 else data)
    if isinstance(data, int):
        return torch.LongTensor([data])
    if isinstance(data, float):
        return torch.FloatTensor([data])
    return torch.tensor(data)


FUNCTIONS.register_module(module=default_collate)


@FUNCTIONS.register_module()
def pseudo_collate(batch: Sequence[T]) -> Any:
    """Turn a list of samples into one sample whose leaves are lists; nothing is stacked or copied.

    Example:
        >>> pseudo_collate([{"a": 1, "b": [2, 3]}, {"a": 4, "b": [5, 6]}])
        {'a': [1, 4], 'b': [[2, 5], [3, 6]]}
    """
    samples: list[Any] = list(batch)
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: pseudo_collate([sample[key] for sample in samples]) for key in first}
    if not isinstance(first, list | tuple):
        return samples
    if any(len(sample) != len(first) for sample in samples):
        raise InputError("samples of one batch hold lists of different lengths, which cannot be collated")
    leaves = [pseudo_collate(leaf) for leaf in zip(*samples, strict=True)]
    return type(first)(*leaves) if hasattr(first, "_fields") else leaves
