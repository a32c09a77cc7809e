"""Voxel encoders for dynamic voxelization: every point of a voxel takes part, and only points do.

Shapes: N points, V voxels, C channels. Voxels are (batch, z, y, x).
Source: Zhou et al., "End-to-end multi-view fusion for 3D object detection in LiDAR point clouds", CoRL 2019.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_norm_layer
from raydet3d.models.module import ConfigType
from raydet3d.models.voxel_encoders.point_offsets import PointOffsetEncoder
from raydet3d.ops.voxel_scatter import VoxelGroups
from raydet3d.registry import MODELS

_NORM = {"type": "BN1d", "eps": 1e-3, "momentum": 0.01}


@MODELS.register_module()
class DynamicSimpleVFE(nn.Module):
    """Averages the points of each voxel.

    Args:
        voxel_size: Accepted for published configs, like the next.
        point_cloud_range: See `voxel_size`.
    """

    def __init__(
        self,
        voxel_size: Sequence[float] = (0.2, 0.2, 4),
        point_cloud_range: Sequence[float] = (0, -40, -3, 70.4, 40, 1),
    ) -> None:
        super().__init__()

    @torch.no_grad()
    def forward(self, features: Tensor, coors: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Average points.

        Args:
            features: (N, C) points.
            coors: (N, 4) their voxels.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            (V, C) means and (V, 4) voxels.
        """
        groups = VoxelGroups.from_points(coors)
        return groups.mean(features), groups.coors


class _DynamicEncoder(PointOffsetEncoder):
    """Encodes voxels by several layers, of which all but the last pass on each point's features and its voxel's."""

    layers_name: ClassVar[str] = "vfe_layers"

    def _add_layers(self, norm_cfg: ConfigType) -> None:
        layers = nn.ModuleList()
        for index, (before, after) in enumerate(itertools.pairwise(self.channels)):
            layers.append(
                nn.Sequential(
                    nn.Linear(before * (2 if index else 1), after, bias=False),
                    build_norm_layer(norm_cfg, after)[1],
                    nn.ReLU(inplace=True),
                )
            )
        self.add_module(self.layers_name, layers)

    def forward(self, features: Tensor, coors: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Encode voxels, in float32 under autocast too.

        Args:
            features: (N, in_channels) points.
            coors: (N, 4) their voxels.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            (V, C) features and (V, 4) voxels.
        """
        with torch.autocast(features.device.type, enabled=False):
            groups = VoxelGroups.from_points(coors)
            x = self._decorate(features, coors, groups)
            layers = list(getattr(self, self.layers_name))
            pooled = x
            for index, layer in enumerate(layers):
                x = _apply_layer(layer, x)
                pooled = groups.max(x) if self.mode == "max" else groups.mean(x)
                if index < len(layers) - 1:
                    x = torch.cat((x, pooled.index_select(0, groups.voxel)), dim=1)
            return pooled, groups.coors

    def _decorate(self, features: Tensor, coors: Tensor, groups: VoxelGroups) -> Tensor:
        """Add offsets to points."""
        parts = [features]
        xyz = features[:, :3]
        if self.with_cluster_center:
            parts.append(xyz - groups.mean(xyz).index_select(0, groups.voxel))
        if self.with_voxel_center:
            parts.append(xyz - self.voxel_centers(coors, features))
        if self.with_distance:
            parts.append(xyz.norm(dim=1, keepdim=True))
        return torch.cat(parts, dim=1)


@MODELS.register_module()
class DynamicVFE(_DynamicEncoder):
    """Encodes voxels by several layers.

    Args:
        in_channels: Features of a point.
        feat_channels: Channels of the layers.
        with_distance: Add the distance to the origin.
        with_cluster_center: Add the offset to the mean of the voxel's points.
        with_voxel_center: Add the offset to the voxel's centre.
        voxel_size: Along x, y, z; metres.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        norm_cfg: Normalization.
        mode: Pooling over the points of a voxel: "max" or "avg".
        fusion_layer: Only None is supported.
        return_point_feats: Only False is supported.
    """

    def __init__(
        self,
        in_channels: int = 4,
        feat_channels: Sequence[int] = (),
        with_distance: bool = False,
        with_cluster_center: bool = False,
        with_voxel_center: bool = False,
        voxel_size: Sequence[float] = (0.2, 0.2, 4),
        point_cloud_range: Sequence[float] = (0, -40, -3, 70.4, 40, 1),
        norm_cfg: ConfigType = _NORM,
        mode: str = "max",
        fusion_layer: ConfigType | None = None,
        return_point_feats: bool = False,
    ) -> None:
        if fusion_layer is not None or return_point_feats:
            raise InputError("DynamicVFE: fusion_layer and return_point_feats are not supported")
        super().__init__(
            in_channels,
            feat_channels,
            with_distance=with_distance,
            with_cluster_center=with_cluster_center,
            with_voxel_center=with_voxel_center,
            voxel_size=voxel_size,
            point_cloud_range=point_cloud_range,
            mode=mode,
        )
        self._add_layers(norm_cfg)


@MODELS.register_module()
class DynamicPillarFeatureNet(_DynamicEncoder):
    """Encodes pillars by several layers.

    Args:
        in_channels: Features of a point.
        feat_channels: Channels of the layers.
        with_distance: Add the distance to the origin.
        with_cluster_center: Add the offset to the mean of the pillar's points.
        with_voxel_center: Add the offset to the pillar's centre.
        voxel_size: Along x, y, z; metres.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        norm_cfg: Normalization.
        mode: Pooling over the points of a pillar: "max" or "avg".
        legacy: Accepted for published configs; without an effect there, too.
    """

    layers_name: ClassVar[str] = "pfn_layers"

    def __init__(
        self,
        in_channels: int = 4,
        feat_channels: Sequence[int] = (64,),
        with_distance: bool = False,
        with_cluster_center: bool = True,
        with_voxel_center: bool = True,
        voxel_size: Sequence[float] = (0.2, 0.2, 4),
        point_cloud_range: Sequence[float] = (0, -40, -3, 70.4, 40, 1),
        norm_cfg: ConfigType = _NORM,
        mode: str = "max",
        legacy: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            feat_channels,
            with_distance=with_distance,
            with_cluster_center=with_cluster_center,
            with_voxel_center=with_voxel_center,
            voxel_size=voxel_size,
            point_cloud_range=point_cloud_range,
            mode=mode,
        )
        self._add_layers(norm_cfg)


def _apply_layer(layer: nn.Sequential, x: Tensor) -> Tensor:
    """Apply linear layer, normalization and ReLU; BatchNorm uses its running statistics for fewer than two points."""
    linear, norm, activation = layer
    x = linear(x)
    if isinstance(norm, nn.BatchNorm1d) and norm.training and len(x) < 2:
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, eps=norm.eps)
    else:
        x = norm(x)
    out: Tensor = activation(x)
    return out
