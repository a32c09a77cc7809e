"""`PillarFeatureNet`: one feature per pillar from its points.

Shapes: V pillars, P slots of a pillar (filled with points or empty), N points, C channels.
Source: PointPillars (Lang et al. 2019), section 2.1, with the quirks of the published KITTI checkpoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet3d.models.layers.build_layer import build_norm_layer
from raydet3d.models.module import ConfigType
from raydet3d.models.voxel_encoders.point_offsets import PointOffsetEncoder
from raydet3d.ops import pillar_max
from raydet3d.registry import MODELS

_NORM: ConfigType = {"type": "BN1d", "eps": 1e-3, "momentum": 0.01}


class PFNLayer(nn.Module):
    """Linear layer, normalization, ReLU, and the maximum over a pillar's slots.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_cfg: Normalization.
        last_layer: The last layer returns the maximum; others return half as many channels per slot, concatenated
            with their maximum.
        mode: "max", or "avg" for the mean over all slots.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm_cfg: ConfigType, last_layer: bool, mode: str
    ) -> None:
        super().__init__()
        self.last_layer = last_layer
        self.mode = mode
        units = out_channels if last_layer else out_channels // 2
        self.norm = build_norm_layer(norm_cfg, units)[1]
        self.linear = nn.Linear(in_channels, units, bias=False)

    def forward(self, slots: Tensor) -> Tensor:
        """Compute on all slots; empty ones take part in the statistics and in the maximum.

        Args:
            slots: (V, P, C), zero where a slot is empty.

        Returns:
            (V, 1, C) from the last layer, else (V, P, C).
        """
        x = self.linear(slots)
        # BatchNorm raises on an empty batch; a step without points must still reach the weights.
        x = self.norm(x.flatten(0, 1)).view_as(x) if x.shape[0] else x * self.norm.weight + self.norm.bias
        x = F.relu(x)
        pooled = x.amax(dim=1, keepdim=True) if self.mode == "max" else x.mean(dim=1, keepdim=True)
        return pooled if self.last_layer else torch.cat((x, pooled.expand_as(x)), dim=2)

    @property
    def supports_pool_points(self) -> bool:
        """Whether `pool_points` gives the result of `forward`."""
        norm = self.norm
        return self.last_layer and self.mode == "max" and type(norm) is nn.BatchNorm1d and norm.affine

    def pool_points(self, points: Tensor, pillar: Tensor, lengths: Tensor, slots: int) -> Tensor:
        """Compute `forward` from the points alone.

        Empty slots hold zeros: a zero in the maximum, and further samples of the moments. As points have no gradient,
        the moments of the linear layer's output follow from those of its input, (C_in,) and (C_in, C_in): mean W m
        and variance diag(W S W').

        Args:
            points: (N, C_in) features, without a gradient.
            pillar: (N,) pillar of each.
            lengths: (V,) numbers of points of the pillars, at least 1.
            slots: P.

        Returns:
            (V, C).
        """
        norm = self.norm
        assert isinstance(norm, nn.BatchNorm1d)
        weight = self.linear.weight
        if norm.training or norm.running_mean is None or norm.running_var is None:
            mean, var = self._moments(points, len(lengths) * slots)
        else:
            mean, var = norm.running_mean, norm.running_var
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        return pillar_max(points, pillar, lengths < slots, weight, scale, norm.bias - mean * scale)

    def _moments(self, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of the linear layer's output over all slots; update the running ones."""
        norm = self.norm
        assert isinstance(norm, nn.BatchNorm1d)
        weight = self.linear.weight.double()
        if not count:
            return norm.bias.detach() * 0, norm.bias.detach() * 0 + 1
        rows = points.double()  # float64, because squares are summed without being centred
        point_mean = (rows.new_ones(1, len(rows)) @ rows)[0] / count
        covariance = rows.T @ rows / count - torch.outer(point_mean, point_mean)
        mean = weight @ point_mean
        var = ((weight @ covariance) * weight).sum(1).clamp(min=0)
        with torch.no_grad():
            if norm.running_mean is not None and norm.running_var is not None and norm.training:
                assert norm.num_batches_tracked is not None
                norm.num_batches_tracked += 1
                momentum = norm.momentum
                if momentum is None:  # a cumulative average
                    momentum = 1 / float(norm.num_batches_tracked)
                unbiased = var * (count / max(count - 1, 1))
                norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
                norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)
        return mean.to(points.dtype), var.to(points.dtype)


@MODELS.register_module()
class PillarFeatureNet(PointOffsetEncoder):
    """Adds offsets to the features of each point, and reduces the points of a pillar to one feature.

    Args:
        in_channels: Features of a point.
        feat_channels: Channels of the layers.
        with_distance: Add the norm of the first three features.
        with_cluster_center: Add the offset to the mean of the pillar's points.
        with_voxel_center: Add the offset to the pillar's centre.
        voxel_size: Along x, y, z; metres.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        norm_cfg: Normalization.
        mode: Pooling over the slots: "max" or "avg".
        legacy: The offsets to the pillar's centre also replace the first three features, as they did (by an in-place
            operation) when the published checkpoints were trained.
        padded: Compute on all slots instead of the points alone: the same result, several times slower. Always done
            for several layers and for other normalizations than `BN1d`.
    """

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
        padded: bool = False,
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
        self.pfn_layers = nn.ModuleList(
            PFNLayer(before, after, norm_cfg=norm_cfg, last_layer=index == len(feat_channels) - 1, mode=mode)
            for index, (before, after) in enumerate(itertools.pairwise(self.channels))
        )
        self.legacy = legacy
        self.padded = padded

    def forward(self, voxels: Tensor, num_points: Tensor, coors: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Encode pillars, in float32 under autocast too: bfloat16 would round a point at 70 m to 25 cm.

        Args:
            voxels: (V, P, in_channels) points, zero where a slot is empty.
            num_points: (V,) numbers of points.
            coors: (V, 4) batch, z, y, x.
            *args: Not used; the published detectors pass features of images.
            **kwargs: Not used.

        Returns:
            (V, C).
        """
        with torch.autocast(voxels.device.type, enabled=False):
            first = self.pfn_layers[0]
            assert isinstance(first, PFNLayer)
            if (
                not self.padded
                and len(self.pfn_layers) == 1
                and first.supports_pool_points
                and not voxels.requires_grad
            ):
                return self._encode_points(first, voxels, num_points, coors)
            return self._encode_slots(voxels, num_points, coors)

    def _encode_slots(self, voxels: Tensor, num_points: Tensor, coors: Tensor) -> Tensor:
        """Encode pillars from all slots, as published."""
        x = self.input_features(voxels, num_points, coors)
        for layer in self.pfn_layers:
            x = layer(x)
        return x.squeeze(1)

    def input_features(self, voxels: Tensor, num_points: Tensor, coors: Tensor) -> Tensor:
        """Return the input of the layers, (V, P, C_in), zero where a slot is empty; arguments as for `forward`."""
        filled = torch.arange(voxels.shape[1], device=voxels.device) < num_points[:, None]  # (V, P)
        mean = voxels[..., :3].sum(dim=1, keepdim=True, dtype=torch.float64) / num_points[:, None, None]
        return self._decorate(voxels, mean, self.voxel_centers(coors, mean)[:, None]) * filled[..., None]

    def feature_names(self, num_point_features: int) -> list[str]:
        """Return what each channel of `input_features` holds.

        Args:
            num_point_features: Numbers of a point.
        """
        offsets = [f"{axis} - {axis}_pillar_center" for axis in "xyz"]
        point = [*"xyz", *(f"point[{i}]" for i in range(3, num_point_features))]
        own = offsets + point[3:] if self.with_voxel_center and self.legacy else point
        means = [f"{axis} - {axis}_mean_of_points" for axis in "xyz"] if self.with_cluster_center else []
        norm = [f"norm({', '.join(own[:3])})"] if self.with_distance else []
        return own + means + (offsets if self.with_voxel_center else []) + norm

    def _encode_points(self, layer: PFNLayer, voxels: Tensor, num_points: Tensor, coors: Tensor) -> Tensor:
        """Encode pillars from their points alone."""
        slots = voxels.shape[1]
        lengths = num_points.long()
        pillar = torch.repeat_interleave(lengths)  # (N,)
        first = lengths.cumsum(0) - lengths
        slot = torch.arange(len(pillar), device=voxels.device) - first.index_select(0, pillar)
        points = voxels.flatten(0, 1).index_select(0, pillar * slots + slot)
        means = points[:, :3].double()
        means = torch.segment_reduce(means, "mean", lengths=lengths, axis=0, unsafe=True) if len(lengths) else means
        around = torch.cat((means, self.voxel_centers(coors, means)), dim=1)
        mean, center = around.index_select(0, pillar).split(3, dim=1)
        return layer.pool_points(self._decorate(points, mean, center), pillar, lengths, slots)

    def _decorate(self, points: Tensor, mean: Tensor, center: Tensor) -> Tensor:
        """Add offsets to points.

        Offsets are differences of numbers up to a thousand times larger. From float32 centres they put the encoder's
        output off by 2.7e-6 (relative); all that follows in float32 by 1e-7.

        Args:
            points: (..., in_channels).
            mean: (..., 3) mean of the pillar's points; float64.
            center: (..., 3) centre of the pillar; float64.

        Returns:
            (..., C_in of the first layer).
        """
        xyz = points[..., :3]
        offset = (xyz - center).to(points.dtype)
        parts = [points]
        if self.with_voxel_center and self.legacy:
            parts = [offset, points[..., 3:]]
        own = parts[0][..., :3]
        if self.with_cluster_center:
            parts.append((xyz - mean).to(points.dtype))
        if self.with_voxel_center:
            parts.append(offset)
        if self.with_distance:
            parts.append(own.norm(dim=-1, keepdim=True))
        return torch.cat(parts, dim=-1)
