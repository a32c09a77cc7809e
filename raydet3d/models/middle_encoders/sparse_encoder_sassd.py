"""`SparseEncoderSASSD`: the sparse encoder with an auxiliary network on points, which only training uses.

Shapes: B batch, V voxels, M voxels of a stage, C channels, N objects of a frame.
Source: SA-SSD (He et al. 2020), sections 3.2 and 3.3. Where MMDetection3D departs from it (labels of the focal loss,
height of a box's centre, neighbours across frames) this follows the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from raydet3d.models.layers.sparse_conv3d import SparseConvTensor
from raydet3d.models.losses import FocalLoss
from raydet3d.models.middle_encoders.sparse_encoder import Paddings, SparseEncoder
from raydet3d.ops import points_in_boxes, upcast_half
from raydet3d.registry import MODELS
from raydet3d.structures import Boxes3D

PointMisc = tuple[Tensor, Tensor, Tensor]
"""Points (V, 4) batch, x, y, z; foreground logits (V, 1); offsets from the box's centre (V, 3)."""

_CANDIDATES = 16
_ROWS_PER_STEP = 2048
"""Points whose distances to all voxels of a stage are computed at once."""


@MODELS.register_module()
class SparseEncoderSASSD(SparseEncoder):
    """`SparseEncoder` whose first three stages also tell, at each point, foreground and the object's centre.

    Args:
        in_channels: As for `SparseEncoder`, like the next eight.
        sparse_shape: (D, H, W) of the grid.
        order: Order of "conv", "norm" and "act".
        norm_cfg: Normalization.
        base_channels: Channels of the first convolution.
        output_channels: Channels of the last convolution.
        encoder_channels: Channels of the blocks of each stage.
        encoder_paddings: Padding of the blocks of each stage.
        block_type: "conv_module" or "basicblock".
        point_cloud_range: (x0, y0, z0) of the grid, or all six numbers; metres.
        voxel_size: (dx, dy, dz) of a voxel of the input; metres.
        backend: As for `SparseEncoder`.
    """

    def __init__(
        self,
        in_channels: int,
        sparse_shape: Sequence[int],
        order: Sequence[str] = ("conv", "norm", "act"),
        norm_cfg: Mapping[str, Any] = {"type": "BN1d", "eps": 1e-3, "momentum": 0.01},
        base_channels: int = 16,
        output_channels: int = 128,
        encoder_channels: Sequence[Sequence[int]] = ((16,), (32, 32, 32), (64, 64, 64), (64, 64, 64)),
        encoder_paddings: Sequence[Paddings] = ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1)),
        block_type: str = "conv_module",
        point_cloud_range: Sequence[float] = (0, -40, -3, 70.4, 40, 1),
        voxel_size: Sequence[float] = (0.05, 0.05, 0.1),
        backend: str = "torch",
    ) -> None:
        super().__init__(
            in_channels,
            sparse_shape,
            order,
            norm_cfg,
            base_channels,
            output_channels,
            encoder_channels,
            encoder_paddings,
            block_type,
            return_middle_feats=True,
            backend=backend,
        )
        self.point_cloud_range, self.voxel_size = tuple(point_cloud_range), tuple(voxel_size)
        channels = sum(widths[-1] for widths in encoder_channels[:3])
        self.point_fc = nn.Linear(channels, 64, bias=False)
        self.point_cls = nn.Linear(64, 1, bias=False)
        self.point_reg = nn.Linear(64, 3, bias=False)
        self.loss_point_cls = FocalLoss(use_sigmoid=True, gamma=2.0, alpha=0.25)

    @override
    def forward(  # type: ignore[override]
        self, voxel_features: Tensor, coors: Tensor, batch_size: int, test_mode: bool = False
    ) -> tuple[Tensor, PointMisc | None]:
        """Encode a batch.

        Args:
            voxel_features: (V, in_channels); x, y, z come first.
            coors: (V, 4) batch, z, y, x.
            batch_size: B, frames without voxels included.
            test_mode: Leave out the auxiliary network.

        Returns:
            The map that `SparseEncoder` returns, and the auxiliary network's outputs or None.
        """
        encoded, stages = super().forward(voxel_features, coors, batch_size)
        assert isinstance(encoded, Tensor)
        if test_mode:
            return encoded, None
        points = torch.cat((coors[:, :1].to(voxel_features.dtype), voxel_features[:, :3]), dim=1)
        features = [self.make_auxiliary_points(stage, points, self._voxel_size_of(stage)) for stage in list(stages)[:3]]
        hidden = self.point_fc(torch.cat(features, dim=1))
        return encoded, (points, self.point_cls(hidden), self.point_reg(hidden))

    def _voxel_size_of(self, stage: SparseConvTensor) -> tuple[float, ...]:
        """Return (dx, dy, dz) of a stage's voxels, which its strides have made larger."""
        strides = [round(full / now) for full, now in zip(self.sparse_shape, stage.spatial_shape, strict=True)]
        return tuple(size * stride for size, stride in zip(self.voxel_size, reversed(strides), strict=True))

    def make_auxiliary_points(
        self, source_tensor: SparseConvTensor, target: Tensor, voxel_size: Sequence[float]
    ) -> Tensor:
        """Interpolate a stage's features at points from the three nearest voxels of the same frame.

        Args:
            source_tensor: Output of a stage, M voxels.
            target: (V, 4) batch, x, y, z.
            voxel_size: (dx, dy, dz) of the stage's voxels; metres.

        Returns:
            (V, C).
        """
        size = target.new_tensor(voxel_size)
        centers = (source_tensor.indices[:, [3, 2, 1]].to(target) + 0.5) * size
        centers = centers + target.new_tensor(self.point_cloud_range[:3])
        features = source_tensor.features
        out = features.new_zeros(len(target), features.shape[1])
        for frame in range(source_tensor.batch_size):
            here = (target[:, 0] == frame).nonzero().squeeze(1)
            there = (source_tensor.indices[:, 0] == frame).nonzero().squeeze(1)
            if not len(here) or not len(there):
                continue
            index, weight = _nearest(target[here, 1:].detach(), centers[there])
            near = features[there[index]] * weight[..., None].to(features.dtype)  # (P, 3, C)
            out = out.index_add(0, here, near.sum(dim=1))
        return out

    def aux_loss(
        self, points: Tensor, point_cls: Tensor, point_reg: Tensor, gt_bboxes_3d: Sequence[Boxes3D]
    ) -> dict[str, list[Tensor]]:
        """Compute the auxiliary losses (equations 4 and 5), averaged over positive points and frames.

        Args:
            points: (V, 4) batch, x, y, z.
            point_cls: (V, 1) foreground logits.
            point_reg: (V, 3) offsets from the centre of the box that a point lies in.
            gt_bboxes_3d: Boxes of each frame.

        Returns:
            `aux_loss_cls` and `aux_loss_reg`.
        """
        is_inside, offsets = self.get_auxiliary_targets(points, gt_bboxes_3d)
        count, frames = is_inside.sum().clamp(min=1), len(gt_bboxes_3d)
        labels = (~is_inside).long()  # class 0 is foreground, 1 background
        loss_cls = self.loss_point_cls(point_cls, labels, avg_factor=count) / frames
        difference = F.smooth_l1_loss(upcast_half(point_reg), offsets, beta=1 / 9, reduction="none")
        loss_reg = (difference * is_inside[:, None]).sum() / count / frames
        return {"aux_loss_cls": [loss_cls], "aux_loss_reg": [loss_reg]}

    def get_auxiliary_targets(
        self, points_feats: Tensor, gt_bboxes_3d: Sequence[Boxes3D], enlarge: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Find the points that lie in boxes, and their offsets from the boxes' centres.

        Args:
            points_feats: (V, 4) batch, x, y, z.
            gt_bboxes_3d: Boxes of each frame.
            enlarge: Factor on the sizes of the boxes.

        Returns:
            (V,) whether a point lies in a box, and (V, 3) its offset, 0 outside.
        """
        is_inside = torch.zeros(len(points_feats), dtype=torch.bool, device=points_feats.device)
        offsets = points_feats.new_zeros(len(points_feats), 3)
        for frame, boxes in enumerate(gt_bboxes_3d):
            here = (points_feats[:, 0] == frame).nonzero().squeeze(1)
            tensor = boxes.tensor.to(points_feats.device)[:, :7].clone()
            if not len(here) or not len(tensor):
                continue
            tensor[:, 3:6] *= enlarge
            xyz = points_feats[here, 1:]
            inside = points_in_boxes(xyz, tensor)  # (P, N)
            found, which = inside.max(dim=1)
            centers = tensor[:, :3] + tensor.new_tensor([0, 0, 0.5]) * tensor[:, 5:6]
            is_inside[here] = found
            offsets[here] = torch.where(found[:, None], xyz - centers[which], offsets[here])
        return is_inside, offsets


def _nearest(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Find the three nearest centres of each point, and weights by inverse distance that sum to 1.

    Args:
        points: (P, 3).
        centers: (M, 3).

    Returns:
        (P, k) indices and (P, k) weights; k is 3, or M where that is less.
    """
    indices, weights = [], []
    for part in points.split(_ROWS_PER_STEP):
        # Matrix products find candidates fast, but their distances are inexact.
        rough = torch.cdist(part, centers, compute_mode="use_mm_for_euclid_dist")
        near = rough.topk(min(_CANDIDATES, len(centers)), dim=1, largest=False).indices  # (P, candidates)
        exact = (centers[near] - part[:, None]).norm(dim=2)
        distance, best = exact.topk(min(3, len(centers)), dim=1, largest=False)
        inverse = 1 / (distance + 1e-8)
        indices.append(near.gather(1, best))
        weights.append(inverse / inverse.sum(dim=1, keepdim=True))
    return torch.cat(indices), torch.cat(weights)
