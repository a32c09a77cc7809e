"""`HardVFE`: voxel feature encoding by several layers (PointPillars on nuScenes).

Shapes: V voxels, P slots of a voxel, C channels.
Source: VoxelNet (Zhou & Tuzel 2018), section 2.1.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_norm_layer
from raydet3d.models.module import ConfigType
from raydet3d.models.voxel_encoders.point_offsets import PointOffsetEncoder
from raydet3d.registry import MODELS

_NORM = {"type": "BN1d", "eps": 1e-3, "momentum": 0.01}


class VFELayer(nn.Module):
    """Linear layer, normalization, ReLU, and the maximum over a voxel's slots.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the layer.
        norm_cfg: Normalization.
        max_out: Compute the maximum; False returns the features of the slots.
        cat_max: Concatenate features and maximum; False returns the maximum.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_cfg: ConfigType = _NORM,
        max_out: bool = True,
        cat_max: bool = True,
    ) -> None:
        super().__init__()
        self.max_out = max_out
        self.cat_max = cat_max
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.linear = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute on all slots; empty ones take part in the statistics and in the maximum.

        Args:
            inputs: (V, P, C).

        Returns:
            (V, P, out_channels) without `max_out`, (V, out_channels) without `cat_max`, else
            (V, P, 2 * out_channels).
        """
        x = self.linear(inputs)
        # BatchNorm raises on an empty batch; a step without points must still reach the weights.
        x = self.norm(x.flatten(0, 1)).view_as(x) if x.shape[0] else x * self.norm.weight + self.norm.bias
        x = F.relu(x)
        if not self.max_out:
            return x
        pooled = x.amax(dim=1, keepdim=True)
        return torch.cat((x, pooled.expand_as(x)), dim=2) if self.cat_max else pooled.squeeze(1)


@MODELS.register_module()
class HardVFE(PointOffsetEncoder):
    """Adds offsets to the features of each point, and encodes a voxel by several `VFELayer`.

    Args:
        in_channels: Features of a point.
        feat_channels: Channels of the layers.
        with_distance: Add the distance to the origin.
        with_cluster_center: Add the offset to the mean of the voxel's points.
        with_voxel_center: Add the offset to the voxel's centre.
        voxel_size: Along x, y, z; metres.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        norm_cfg: Normalization.
        mode: Only "max" is supported.
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
        super().__init__(
            in_channels,
            feat_channels,
            with_distance=with_distance,
            with_cluster_center=with_cluster_center,
            with_voxel_center=with_voxel_center,
            voxel_size=voxel_size,
            point_cloud_range=point_cloud_range,
            mode=mode,
            modes=("max",),
        )
        if fusion_layer is not None or return_point_feats:
            raise InputError("HardVFE: fusion_layer and return_point_feats are not supported")
        layers = []
        for index, (before, after) in enumerate(itertools.pairwise(self.channels)):
            last = index == len(feat_channels) - 1
            layers.append(VFELayer(before * (2 if index else 1), after, norm_cfg=norm_cfg, cat_max=not last))
        self.vfe_layers = nn.ModuleList(layers)

    def forward(self, features: Tensor, num_points: Tensor, coors: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Encode voxels, in float32 under autocast too: bfloat16 would round a point at 50 m to 25 cm.

        Args:
            features: (V, P, in_channels) points, zero where a slot is empty.
            num_points: (V,) numbers of points.
            coors: (V, 4) batch, z, y, x.
            *args: Not used; the published detectors pass features of images.
            **kwargs: Not used.

        Returns:
            (V, C).
        """
        with torch.autocast(features.device.type, enabled=False):
            x = self.input_features(features, num_points, coors)
            for layer in self.vfe_layers:
                x = layer(x)
            return x

    def input_features(self, features: Tensor, num_points: Tensor, coors: Tensor) -> Tensor:
        """Return the input of the layers, (V, P, C_in), zero where a slot is empty; arguments as for `forward`."""
        filled = torch.arange(features.shape[1], device=features.device) < num_points[:, None]  # (V, P)
        xyz = features[..., :3]
        parts = [features]
        if self.with_cluster_center:
            parts.append(xyz - xyz.sum(dim=1, keepdim=True) / num_points[:, None, None].to(features))
        if self.with_voxel_center:
            parts.append(xyz - self.voxel_centers(coors, features)[:, None])
        if self.with_distance:
            parts.append(xyz.norm(dim=2, keepdim=True))
        return torch.cat(parts, dim=-1) * filled[..., None]

    def feature_names(self, num_point_features: int) -> list[str]:
        """Return what each channel of `input_features` holds.

        Args:
            num_point_features: Numbers of a point.
        """
        names = [*"xyz", *(f"point[{i}]" for i in range(3, num_point_features))]
        if self.with_cluster_center:
            names += [f"{axis} - {axis}_mean_of_points" for axis in "xyz"]
        if self.with_voxel_center:
            names += [f"{axis} - {axis}_voxel_center" for axis in "xyz"]
        return names + (["norm(x, y, z)"] if self.with_distance else [])
