"""`SASSD`: a voxel detector with an auxiliary loss on points (SA-SSD, He et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from raydet3d.models.detectors.base import Losses
from raydet3d.models.detectors.voxelnet import VoxelNet
from raydet3d.models.middle_encoders.sparse_encoder_sassd import PointMisc
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample


@MODELS.register_module()
class SASSD(VoxelNet):
    """`VoxelNet` whose middle encoder also learns foreground and centres at points; its arguments are the same."""

    @override
    def extract_feat(self, batch_inputs_dict: Mapping[str, Any], test_mode: bool = True) -> Any:
        """Compute the maps of the neck; with `test_mode=False` also what the auxiliary loss needs."""
        maps, misc = self._encode(batch_inputs_dict, test_mode)
        return maps if test_mode else (maps, misc)

    def _encode(self, inputs: Mapping[str, Any], test_mode: bool) -> tuple[Sequence[Tensor], PointMisc | None]:
        voxels = inputs["voxels"]
        features = self.voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
        encoded, misc = self.middle_encoder(features, voxels["coors"], len(inputs["points"]), test_mode)
        maps: Sequence[Tensor] = self.backbone(encoded)
        return (self.neck(maps) if self.neck is not None else maps), misc

    @override
    def loss(
        self, batch_inputs_dict: Mapping[str, Any], batch_data_samples: Sequence[Det3DDataSample], **kwargs: Any
    ) -> Losses:
        maps, misc = self.extract_feat(batch_inputs_dict, test_mode=False)
        losses: Losses = self.bbox_head.loss(maps, batch_data_samples, **kwargs)
        boxes = [sample.gt_instances_3d.bboxes_3d for sample in batch_data_samples]
        return {**losses, **self.middle_encoder.aux_loss(*misc, boxes)}
