"""`DynamicVoxelNet`: a `VoxelNet` on dynamic voxels.

Source: Zhou et al., "End-to-end multi-view fusion for 3D object detection in LiDAR point clouds", CoRL 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from raydet3d.models.detectors.voxelnet import VoxelNet
from raydet3d.models.module import ConfigType
from raydet3d.registry import MODELS


@MODELS.register_module()
class DynamicVoxelNet(VoxelNet):
    """`VoxelNet` whose voxel encoder takes points and their voxels, and returns features and voxels."""

    @override
    def extract_feat(self, batch_inputs_dict: ConfigType) -> Sequence[Tensor]:
        points = batch_inputs_dict["voxels"]
        features, coors = self.voxel_encoder(points["voxels"], points["coors"])
        x = self.middle_encoder(features, coors, len(batch_inputs_dict["points"]))
        maps: Sequence[Tensor] = self.backbone(x)
        return self.neck(maps) if self.neck is not None else maps
